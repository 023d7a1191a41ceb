#include "guest.h"

const char *command_line;

void print(const char *text)
{
    for (; *text; text++)
        outb(COM1, (uint8_t)*text);
}

void print_number(unsigned long value)
{
    char digits[24], *at = &digits[sizeof(digits) - 1];
    *at = 0;
    do
        *--at = (char)('0' + value % 10);
    while (value /= 10);
    print(at);
}

void leave(uint8_t debug_exit_value)
{
    outb(DEBUG_EXIT, debug_exit_value);
    for (;;)
        asm volatile("cli; hlt");
}

void pass(void)
{
    print("PASS\n");
    leave(EXIT_PASS);
}

void fail(const char *why)
{
    print("FAIL ");
    print(why);
    print("\n");
    leave(EXIT_FAIL);
}

bool command_is(const char *word)
{
    const char *at = command_line;
    while (*word && *at == *word)
        at++, word++;
    return !*word && (!*at || *at == ' ');
}

void remap_pics(uint16_t enabled)
{
    /* Intel 8259A, ICW1 to ICW4: edge-triggered, the second PIC at IRQ 2, 8086 mode. */
    static const uint16_t script[][2] = {
        {PIC1, 0x11}, {PIC1 + 1, IRQ_BASE},     {PIC1 + 1, 1 << 2}, {PIC1 + 1, 1},
        {PIC2, 0x11}, {PIC2 + 1, IRQ_BASE + 8}, {PIC2 + 1, 2},      {PIC2 + 1, 1},
    };
    for (size_t at = 0; at < sizeof(script) / sizeof(script[0]); at++)
        outb(script[at][0], (uint8_t)script[at][1]);
    if (enabled >> 8)
        enabled |= 1 << 2;
    outb(PIC1 + 1, (uint8_t)~enabled);
    outb(PIC2 + 1, (uint8_t)(~enabled >> 8));
}

void end_of_irq(int irq)
{
    if (irq >= 8)
        outb(PIC2, 0x20); /* OCW2, non-specific end of interrupt */
    outb(PIC1, 0x20);
}
