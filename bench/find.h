/* What the guests that drive a queue have in common: the device, and their command lines. */
#include "virtio.h"

enum { BAR_STEP = 0x100000, BARS = 6, CAPABILITY_VENDOR = 9 };

static struct virtio device;

/* Find the device wherever its registers are: QEMU's have a BAR of their own. */
static bool find(unsigned id)
{
    unsigned slot = 0;
    uintptr_t config;
    do {
        if (++slot == 32)
            return false;
        config = ECAM + ((uintptr_t)slot << 15);
    } while (read32(config) != ((0x1040u + id) << 16 | 0x1af4));
    device.config = config;
    for (unsigned bar = 0; bar < BARS; bar++) {
        uint32_t old = read32(config + PCI_BAR0 + 4 * bar);
        write32(config + PCI_BAR0 + 4 * bar, PCI_WINDOW + bar * BAR_STEP);
        if ((old & 7) == 4) /* 64 bits wide */
            write32(config + PCI_BAR0 + 4 * ++bar, 0);
    }
    write16(config + PCI_COMMAND, PCI_MEMORY | PCI_BUS_MASTER);
    uintptr_t at = config + read8(config + PCI_CAPABILITIES);
    for (; at != config; at = config + read8(at + 1)) {
        if (read8(at) != CAPABILITY_VENDOR)
            continue;
        uintptr_t base = PCI_WINDOW + read8(at + 4) * BAR_STEP + read32(at + 8);
        switch (read8(at + 3)) { /* §4.1.4 */
        case 1:
            device.common = base;
            break;
        case 2:
            device.notify = base;
            device.multiplier = read32(at + 16);
            break;
        case 4:
            device.device = base;
            break;
        }
    }
    return true;
}

static const char *skip_word(const char *at)
{
    while (*at && *at != ' ')
        at++;
    while (*at == ' ')
        at++;
    return at;
}

static unsigned long number(const char *at)
{
    unsigned long value = 0;
    for (; *at >= '0' && *at <= '9'; at++)
        value = 10 * value + (unsigned long)(*at - '0');
    return value;
}
