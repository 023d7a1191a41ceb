/* The clock's periodic and update-ended interrupts, by IRQ 8 through both PICs. */
#include "guest.h"

enum { RTC_IRQ = 8, TICKS = 8, SECONDS = 0, A = 0xa, B = 0xb, C = 0xc };
enum { PIE = 1 << 6, UIE = 1 << 4, PF = 1 << 6, UF = 1 << 4, IRQF = 1 << 7 };

static volatile unsigned periodic, updates;

static uint8_t cmos(uint8_t index)
{
    outb(CMOS, index);
    return inb(CMOS + 1);
}

static void set_cmos(uint8_t index, uint8_t value)
{
    outb(CMOS, index);
    outb(CMOS + 1, value);
}

void on_interrupt(int vector)
{
    CHECK(vector == IRQ_BASE + RTC_IRQ);
    uint8_t why = cmos(C); /* and acknowledge it: the next one needs that */
    if (why & IRQF) {
        periodic += !!(why & PF);
        updates += !!(why & UF);
    }
    end_of_irq(RTC_IRQ);
}

void main(const void *boot_params)
{
    (void)boot_params;
    load_idt();
    write32(LAPIC + 0xf0, 0x1ff);
    write32(LAPIC + 0x350, 7 << 8); /* LINT0: what the PICs ask for */
    remap_pics(1 << RTC_IRQ);

    uint8_t format = cmos(B) & 0xf;
    cmos(C);
    set_cmos(A, 0x26); /* MC146818A, table 5: 32.768 kHz time base, 1024 Hz */
    set_cmos(B, format | PIE);
    while (periodic < TICKS)
        sleep_once();
    print("periodic\n");

    set_cmos(B, format | UIE);
    updates = 0;
    uint8_t before = cmos(SECONDS);
    while (!updates)
        sleep_once();
    CHECK(cmos(SECONDS) != before);
    set_cmos(B, format);
    print("update ended\n");
}
