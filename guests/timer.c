/* Interrupts of the PIT through the PICs and through the IOAPIC, and of the local APIC's timer. */
#include "guest.h"

enum { TICKS = 5, PIT_IRQ = 0, LAPIC_VECTOR = IRQ_BASE + 15 };
enum { LAPIC_EOI = 0xb0, LAPIC_SPURIOUS = 0xf0, LAPIC_TIMER = 0x320 }; /* SDM 3A table 10-1 */
enum { LAPIC_INITIAL = 0x380, LAPIC_CURRENT = 0x390, LAPIC_DIVIDE = 0x3e0 };
enum { MASKED = 1 << 16, PERIODIC = 1 << 17 };

static volatile unsigned pit_ticks, lapic_ticks;
static bool through_pics;

void on_interrupt(int vector)
{
    if (vector == LAPIC_VECTOR)
        lapic_ticks++;
    else if (vector == IRQ_BASE + PIT_IRQ)
        pit_ticks++;
    if (through_pics)
        end_of_irq(vector - IRQ_BASE);
    else
        write32(LAPIC + LAPIC_EOI, 0);
}

static void write_ioapic(unsigned index, uint32_t value)
{
    write32(IOAPIC, index);
    write32(IOAPIC + 0x10, value);
}

static void start_pit(void)
{
    outb(0x43, 0x34); /* Intel 8254: channel 0, both bytes, mode 2, a rate */
    outb(0x40, 11932 & 0xff);
    outb(0x40, 11932 >> 8); /* 100 Hz */
}

void main(const void *boot_params)
{
    (void)boot_params;
    load_idt();
    start_pit();

    /* Virtual wire: the local APIC passes on what the PICs ask for, SDM 3A §10.5.1, LINT0. */
    write32(LAPIC + LAPIC_SPURIOUS, 0x1ff);
    write32(LAPIC + 0x350, 7 << 8);
    through_pics = true;
    remap_pics(1 << PIT_IRQ);
    while (pit_ticks < TICKS)
        sleep_once();
    print("PIT through the PICs\n");

    remap_pics(0);
    through_pics = false;
    pit_ticks = 0;
    write_ioapic(0x10 + 2 * PIT_IRQ + 1, 0); /* 82093AA: to the APIC whose id is 0 */
    write_ioapic(0x10 + 2 * PIT_IRQ, IRQ_BASE + PIT_IRQ);
    while (pit_ticks < TICKS)
        sleep_once();
    write_ioapic(0x10 + 2 * PIT_IRQ, MASKED);
    print("PIT through the IOAPIC\n");

    write32(LAPIC + LAPIC_DIVIDE, 0xb); /* by 1 */
    write32(LAPIC + LAPIC_TIMER, LAPIC_VECTOR | PERIODIC);
    write32(LAPIC + LAPIC_INITIAL, 5000000);
    while (lapic_ticks < TICKS)
        sleep_once();
    write32(LAPIC + LAPIC_INITIAL, 0);
    CHECK(read32(LAPIC + LAPIC_CURRENT) == 0);
    lapic_ticks = 0;
    write32(LAPIC + LAPIC_TIMER, LAPIC_VECTOR); /* one shot */
    write32(LAPIC + LAPIC_INITIAL, 5000000);
    while (!lapic_ticks)
        sleep_once();
    print("local APIC timer\n");
}
