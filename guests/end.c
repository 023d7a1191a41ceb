/* Ends, or does not, in the way that its command line names. */
#include "guest.h"

enum { PM1A_CONTROL = 0x604, SLP_EN = 1 << 13, SLP_TYP_S5 = 5 << 10 };
enum { RESET_CONTROL = 0xcf9, I8042_COMMAND = 0x64, PVPANIC = 0x505, EXIT_STATUS = 0x506 };

static void triple_fault(void)
{
    static const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) none = {0, 0};
    asm volatile("lidt %0; ud2" : : "m"(none));
}

void main(const void *boot_params)
{
    (void)boot_params;
    print("here\n");
    if (command_is("poweroff"))
        outw(PM1A_CONTROL, SLP_EN | SLP_TYP_S5);
    else if (command_is("cf9"))
        outb(RESET_CONTROL, 6);
    else if (command_is("i8042"))
        outb(I8042_COMMAND, 0xfe);
    else if (command_is("triple"))
        triple_fault();
    else if (command_is("pvpanic"))
        outb(PVPANIC, 1);
    else if (command_is("panic")) /* as Linux says it */
        print("Kernel panic - not syncing: a test\n"
              "---[ end Kernel panic - not syncing: a test ]---\n");
    else if (command_is("panic-cf9")) { /* as with panic=-1: the rest is not said */
        print("Kernel panic - not syncing: a test\n");
        outb(RESET_CONTROL, 6);
    } else if (command_is("exit-0"))
        leave(0);
    else if (command_is("exit-127"))
        leave(127);
    else if (command_is("exited-0"))
        outb(EXIT_STATUS, 0);
    else if (command_is("exited-200"))
        outb(EXIT_STATUS, 200);
    else if (command_is("spin"))
        for (;;)
            asm volatile("pause");
    else if (command_is("once")) { /* reset the first time; CMOS RAM outlives that */
        outb(CMOS, 0x40);
        uint8_t before = inb(CMOS + 1);
        outb(CMOS + 1, before + 1);
        if (before == 2)
            pass();
        outb(RESET_CONTROL, 6);
    } else if (!command_is("halt"))
        fail("there is no such end");
    for (;;)
        asm volatile("cli; hlt");
}
