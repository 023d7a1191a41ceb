/* Port accesses of every size, as single and as string instructions, claimed and unclaimed. */
#include "guest.h"

enum { NOBODY = 0x2000, ACCESSES = 1000 };

void main(const void *boot_params)
{
    (void)boot_params;
    static const uint8_t text[] = "string output\n";
    outsb(COM1, text, sizeof(text) - 1);

    for (unsigned i = 0; i < ACCESSES; i++) {
        outb(COM1_SCRATCH, (uint8_t)i);
        CHECK(inb(COM1_SCRATCH) == (uint8_t)i);
    }

    /* The UART takes single bytes: a wider access is one of each register, lowest first. */
    outw(COM1_SCRATCH - 1, 0xa500);
    CHECK(inb(COM1_SCRATCH) == 0xa5);
    CHECK(inw(COM1_SCRATCH - 1) >> 8 == 0xa5);
    CHECK(inl(COM1_SCRATCH - 3) >> 24 == 0xa5);

    CHECK(inb(NOBODY) == 0xff && inw(NOBODY) == 0xffff && inl(NOBODY) == 0xffffffff);
    outb(NOBODY, 1), outw(NOBODY, 1), outl(NOBODY, 1);

    /* Each element of a string is an access of its own. CMOS bytes 0x40 on are plain RAM. */
    static const uint8_t numbers[] = {7, 8, 9};
    outsb(COM1_SCRATCH, numbers, sizeof(numbers));
    CHECK(inb(COM1_SCRATCH) == 9);
    uint8_t same[4] = {0};
    insb(COM1_SCRATCH, same, sizeof(same));
    CHECK(same[0] == 9 && same[3] == 9);
    uint16_t ones[300] = {0};
    insw(NOBODY, ones, 300);
    CHECK(ones[0] == 0xffff && ones[299] == 0xffff);
}
