/* Checks what Multiboot tells: the memory and its map, the command line, the modules. */
#include "guest.h"

struct information { /* Multiboot specification 0.6.96 §3.3 */
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4];
    uint32_t mmap_length, mmap_addr;
};

struct entry {
    uint32_t size;
    uint64_t base, length;
    uint32_t type;
} __attribute__((packed));

struct module {
    uint32_t start, end, string, reserved;
};

void main(const void *boot_information)
{
    const struct information *info = boot_information;
    const uint32_t wanted = 1 << 0 | 1 << 2 | 1 << 6; /* mem_*, cmdline, mmap_* */

    CHECK((info->flags & wanted) == wanted);
    print((const char *)info->cmdline);
    print("\n");

    uint64_t ram = 0;
    uint32_t at = info->mmap_addr;
    while (at < info->mmap_addr + info->mmap_length) {
        const struct entry *entry = (const void *)at;
        if (entry->type == 1)
            ram += entry->length;
        if (entry->type == 1 && entry->base == MIB)
            CHECK(entry->length / 1024 == info->mem_upper);
        at += entry->size + sizeof(entry->size);
    }
    CHECK(info->mem_lower >= 512 && info->mem_lower <= 640);
    print_number((unsigned long)((ram + MIB - 1) >> 20));
    print(" MiB\n");

    if (info->flags & 1 << 3) {
        const struct module *modules = (const void *)info->mods_addr;
        for (uint32_t i = 0; i < info->mods_count; i++) {
            CHECK(modules[i].start < modules[i].end && modules[i].start % 4096 == 0);
            print((const char *)modules[i].string);
            print("\n");
        }
    }
}
