/* RAM is where the memory map says, also above 4 GiB; in the hole below it there is none. */
#include "guest.h"

enum { RAM = 1, PAGE = 4096 };

struct entry { /* struct boot_e820_entry, x86/zero-page.rst */
    uint64_t base, length;
    uint32_t type;
} __attribute__((packed));

/* Map the gigabyte at `base` to itself, in pages of 2 MiB (SDM 3A §4.5). */
static void map_gigabyte(uint64_t base)
{
    static uint64_t directory[512] __attribute__((aligned(PAGE)));
    uint64_t pml4;
    asm volatile("mov %%cr3, %0" : "=r"(pml4));
    uint64_t pointers = read64(pml4) & ~0xffful;
    for (unsigned i = 0; i < 512; i++)
        directory[i] = (base + i * 2 * MIB) | 0x83; /* present, writable, large */
    write64(pointers + base / GIB * 8, (uintptr_t)directory | 3);
    asm volatile("mov %0, %%cr3" : : "r"(pml4) : "memory");
}

static void check_page(uint64_t address)
{
    if (address >= 4 * GIB)
        map_gigabyte(address & ~(GIB - 1));
    CHECK(read64(address) == 0); /* nobody has touched it */
    write64(address, address ^ 0x5555);
    CHECK(read64(address) == (address ^ 0x5555));
}

void main(const void *boot_params)
{
    uintptr_t params = (uintptr_t)boot_params;
    const struct entry *map = (const void *)(params + 0x2d0);
    uint64_t ram = 0;
    unsigned count = read8(params + 0x1e8);

    CHECK(count > 0 && count <= 128);
    for (unsigned i = 0; i < count; i++) {
        if (map[i].type != RAM)
            continue;
        CHECK(map[i].base + map[i].length <= HOLE || map[i].base >= 4 * GIB);
        if (map[i].base >= MIB)
            check_page(map[i].base + map[i].length - PAGE);
        if (map[i].base >= 4 * GIB)
            check_page(map[i].base);
        ram += map[i].length;
    }
    CHECK(read64(HOLE) == ~0ul);
    CHECK(read64(HOLE - 8) != ~0ul || ram < HOLE - MIB);
    print_number((ram + MIB - 1) / MIB);
    print(" MiB\n");
}
