/* What a debugger is tried on. */
#include "guest.h"

volatile unsigned long ticks;
char source[64] = "a string that is copied byte by byte", copy[64];

/* Real-mode code of the second CPU, copied to this page: vector 8 of the start-up message. */
enum { TRAMPOLINE = 0x8000, ICR = 0x300, ICR_PENDING = 1 << 12, ALL_BUT_SELF = 3 << 18 };
enum { INIT = 5 << 8, STARTUP = 6 << 8, ASSERT = 1 << 14 };
asm(".code16\n"
    "trampoline: incw %cs:0x800\n"
    "jmp trampoline\n"
    "trampoline_end:\n"
    ".code64\n");
extern const uint8_t trampoline[], trampoline_end[];

__attribute__((noinline)) void tick(void)
{
    ticks++;
}

static _Noreturn void count(void)
{
    for (;;)
        tick();
}

static void send(uint32_t message)
{
    write32(LAPIC + ICR, message);
    while (read32(LAPIC + ICR) & ICR_PENDING)
        asm volatile("pause");
}

/* Both CPUs count. */
static _Noreturn void both(void)
{
    for (const uint8_t *from = trampoline; from < trampoline_end; from++)
        write8(TRAMPOLINE + (size_t)(from - trampoline), *from);
    write32(LAPIC + 0xf0, 0x1ff);
    send(ALL_BUT_SELF | ASSERT | INIT);
    send(ALL_BUT_SELF | ASSERT | STARTUP | TRAMPOLINE >> 12);
    count();
}

static void copy_string(void)
{
    const char *from = source;
    char *to = copy;
    size_t size = sizeof(source);
    asm volatile("string: rep movsb\n"
                 "string_end:"
                 : "+S"(from), "+D"(to), "+c"(size)
                 :
                 : "memory");
    tick();
}

static void halt(void)
{
    asm volatile("halt_here: hlt\n"
                 "halt_end:" ::
                     : "memory");
}

struct gate { /* SDM 3A §6.14.1 */
    uint16_t low, selector;
    uint8_t stack, type;
    uint16_t middle;
    uint32_t high, reserved;
};
static struct gate idt[4];

static _Noreturn void on_step(void)
{
    print("own step\n");
    pass();
}

static _Noreturn void on_breakpoint(void)
{
    print("own breakpoint\n");
    pass();
}

static void set_gate(int vector, void (*handler)(void))
{
    uint64_t to = (uint64_t)handler;
    uint16_t code;
    asm("mov %%cs, %0" : "=r"(code));
    idt[vector] =
        (struct gate){(uint16_t)to, code, 0, 0x8e, (uint16_t)(to >> 16), (uint32_t)(to >> 32), 0};
}

/* Meet what a debugger uses, and handle it. */
static void own(bool step)
{
    struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } pointer = {sizeof(idt) - 1, (uint64_t)idt};
    set_gate(1, on_step);
    set_gate(3, on_breakpoint);
    asm volatile("lidt %0" : : "m"(pointer));
    if (step)
        asm volatile("pushf; orl $0x100, (%%rsp); popf; nop" : : : "memory", "cc");
    else
        asm volatile("int3");
}

void main(const void *boot_params)
{
    (void)boot_params;
    if (command_is("count"))
        count();
    if (command_is("both"))
        both();
    if (command_is("copy"))
        copy_string();
    if (command_is("halt"))
        halt();
    if (command_is("step") || command_is("breakpoint"))
        own(command_is("step"));
}
