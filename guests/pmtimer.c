/* The ACPI timer counts up, modulo 2^24, and at a rate that is right beside the PIT's. */
#include "guest.h"

enum { PM_TIMER = 0x608, BITS = 24, READS = 2000 };

static uint32_t ticks_from(uint32_t before)
{
    return (inl(PM_TIMER) - before) & ((1u << BITS) - 1);
}

void main(const void *boot_params)
{
    (void)boot_params;
    uint32_t start = inl(PM_TIMER), last = 0;
    CHECK(start >> BITS == 0);
    for (int i = 0; i < READS; i++) {
        uint32_t now = ticks_from(start);
        CHECK(now >= last);
        last = now;
    }
    CHECK(last > 0);

    /* 20 ms of the PIT's channel 2 in mode 0 (Intel 8254): at least as many of ours must pass. */
    outb(0x61, 1);
    outb(0x43, 0xb0);
    outb(0x42, 23864 & 0xff);
    start = inl(PM_TIMER);
    outb(0x42, 23864 >> 8);
    while (!(inb(0x61) & 1 << 5))
        ;
    CHECK(ticks_from(start) >= 3579545 / 50 * 99 / 100);
}
