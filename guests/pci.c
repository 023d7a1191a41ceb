/* PCI configuration space, by ports and by memory: the same bytes, and nobody where nobody is. */
#include "guest.h"

enum { ADDRESS = 0xcf8, DATA = 0xcfc, ENABLE = 1u << 31 }; /* PCI 3.0 §3.2.2.3.2 */

static uint32_t config(unsigned device, unsigned offset)
{
    outl(ADDRESS, ENABLE | device << 11 | offset);
    return inl(DATA);
}

void main(const void *boot_params)
{
    (void)boot_params;
    for (unsigned offset = 0; offset < 256; offset += 4)
        CHECK(config(0, offset) == read32(ECAM + offset));
    CHECK(config(0, 0) != 0xffffffff);
    CHECK(config(0, 8) >> 16 == 0x0600); /* class: host bridge */
    CHECK(inl(ADDRESS) == (ENABLE | 0xfcu) || inl(ADDRESS) == (ENABLE | 8u));

    uint32_t id = config(0, 0);
    CHECK(inb(DATA + 1) == (uint8_t)(id >> 8) && inw(DATA + 2) == id >> 16);
    outl(DATA, ~id); /* read-only */
    CHECK(config(0, 0) == id);

    CHECK(config(31, 0) == 0xffffffff && read32(ECAM + (31ul << 15)) == 0xffffffff);
    outl(ADDRESS, 0); /* not enabled: no configuration access */
    CHECK(inl(DATA) == 0xffffffff);
}
