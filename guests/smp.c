/* Starts every other CPU by INIT and SIPI (SDM 3A §8.4.4); each of them counts itself. */
#include "guest.h"

/* Real-mode code of the others, copied to this page: vector 8 of the start-up message. */
enum { TRAMPOLINE = 0x8000, COUNTER = TRAMPOLINE + 0x800 };
enum { ICR = 0x300, ICR_PENDING = 1 << 12, ALL_BUT_SELF = 3 << 18, ASSERT = 1 << 14 };
enum { INIT = 5 << 8, STARTUP = 6 << 8 };

asm(".code16\n"
    "trampoline: lock incw %cs:0x800\n"
    "1: cli; hlt; jmp 1b\n"
    "trampoline_end:\n"
    ".code64\n");
extern const uint8_t trampoline[], trampoline_end[];

static void send(uint32_t message)
{
    write32(LAPIC + ICR, message);
    while (read32(LAPIC + ICR) & ICR_PENDING)
        asm volatile("pause");
}

static unsigned cpus(void)
{
    unsigned count = 1;
    for (uint32_t level = 0; cpuid(0xb, level).ecx & 0xff00; level++)
        count = cpuid(0xb, level).ebx & 0xffff;
    return count;
}

void main(const void *boot_params)
{
    (void)boot_params;
    for (const uint8_t *from = trampoline; from < trampoline_end; from++)
        write8(TRAMPOLINE + (size_t)(from - trampoline), *from);
    write16(COUNTER, 0);
    write32(LAPIC + 0xf0, 0x1ff);
    unsigned others = cpus() - 1;

    send(ALL_BUT_SELF | ASSERT | INIT);
    send(ALL_BUT_SELF | ASSERT | STARTUP | TRAMPOLINE >> 12);
    while (read16(COUNTER) < others)
        asm volatile("pause");
    send(ALL_BUT_SELF | ASSERT | STARTUP | TRAMPOLINE >> 12); /* a second one changes nothing */
    CHECK(read16(COUNTER) == others);
    print_number(others + 1);
    print(" CPUs\n");
}
