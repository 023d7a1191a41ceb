/*
 * The floor that exits are measured against: a KVM_RUN loop and nothing else. bare_kvm ELF runs the
 * guest of tiny.S in 64-bit mode: its serial port's output goes to standard output, every read
 * gives the line status of an idle serial port.
 */
#include <elf.h>
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    MEMORY = 512 << 20,
    PML4 = 0x9000,
    PDPT = 0xa000,
    DIRECTORY = 0xb000,
    COM1 = 0x3f8,
    LINE_STATUS_IDLE = 0x60, /* transmitter empty; NS16550A data sheet, table 2 */
};

static uint8_t *memory;

static int control(int fd, unsigned long request, void *argument, const char *name)
{
    int result = ioctl(fd, request, argument);
    if (result < 0)
        err(1, "%s", name);
    return result;
}
#define CONTROL(fd, request, argument) control(fd, request, argument, #request)

static uint64_t load(const char *path)
{
    struct stat status;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &status) < 0)
        err(1, "%s", path);
    const uint8_t *file = mmap(NULL, status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (file == MAP_FAILED)
        err(1, "%s", path);
    const Elf64_Ehdr *header = (const void *)file;
    const Elf64_Phdr *segments = (const void *)(file + header->e_phoff);
    for (int at = 0; at < header->e_phnum; at++)
        if (segments[at].p_type == PT_LOAD)
            memcpy(memory + segments[at].p_paddr, file + segments[at].p_offset,
                   segments[at].p_filesz);
    return header->e_entry;
}

/* 64-bit mode with the first GiB mapped to itself in 2 MiB pages; Intel SDM 3A, 4.5. */
static void set_long_mode(int vcpu)
{
    struct kvm_sregs sregs;
    uint64_t *directory = (void *)(memory + DIRECTORY);
    *(uint64_t *)(memory + PML4) = PDPT | 3;
    *(uint64_t *)(memory + PDPT) = DIRECTORY | 3;
    for (uint64_t at = 0; at < 512; at++)
        directory[at] = at << 21 | 0x83;
    CONTROL(vcpu, KVM_GET_SREGS, &sregs);
    sregs.cr3 = PML4;
    sregs.cr4 = 1 << 5;            /* PAE */
    sregs.cr0 = 1u << 31 | 1;      /* PG, PE */
    sregs.efer = 1 << 10 | 1 << 8; /* LMA, LME */
    sregs.cs = (struct kvm_segment){
        .selector = 8, .limit = ~0u, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
    sregs.ds = sregs.es = sregs.ss = (struct kvm_segment){
        .selector = 16, .limit = ~0u, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
    CONTROL(vcpu, KVM_SET_SREGS, &sregs);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        errx(1, "usage: bare_kvm ELF");
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0)
        err(1, "/dev/kvm");
    int vm = CONTROL(kvm, KVM_CREATE_VM, NULL);
    memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        err(1, "mmap");
    CONTROL(vm, KVM_SET_USER_MEMORY_REGION,
            (&(struct kvm_userspace_memory_region){.memory_size = MEMORY,
                                                   .userspace_addr = (uintptr_t)memory}));
    CONTROL(vm, KVM_CREATE_IRQCHIP, NULL);
    int vcpu = CONTROL(vm, KVM_CREATE_VCPU, NULL);
    int size = CONTROL(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL);
    struct kvm_run *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED)
        err(1, "mmap of the vCPU");
    uint64_t entry = load(argv[1]);
    set_long_mode(vcpu);
    CONTROL(vcpu, KVM_SET_REGS, (&(struct kvm_regs){.rip = entry, .rflags = 2}));

    for (;;) {
        CONTROL(vcpu, KVM_RUN, NULL);
        if (run->exit_reason != KVM_EXIT_IO)
            errx(1, "exit reason %u", run->exit_reason);
        uint8_t *data = (uint8_t *)run + run->io.data_offset;
        if (run->io.direction == KVM_EXIT_IO_IN)
            *data = LINE_STATUS_IDLE;
        else if (run->io.port == COM1 && write(STDOUT_FILENO, data, 1) != 1)
            err(1, "standard output");
    }
}
