/*
 * What every tiny guest has at hand: ports and memory-mapped registers, text on the first serial
 * port, interrupts, and a verdict through the debug exit port. start64.S and start32.S call main().
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    COM1 = 0x3f8,
    COM1_IER = COM1 + 1, /* NS16550A data sheet, table 2 */
    COM1_MCR = COM1 + 4,
    COM1_LSR = COM1 + 5,
    COM1_SCRATCH = COM1 + 7,
    PIC1 = 0x20, /* Intel 8259A: command port, then data port */
    PIC2 = 0xa0,
    CMOS = 0x70, /* MC146818: index port, then data port */
    DEBUG_EXIT = 0xf4,
    IRQ_BASE = 0x20, /* vector of IRQ 0, after remap_pics() */
    EXIT_PASS = 0x10,
    EXIT_FAIL = 0x11,
};

#define MIB (1ul << 20)
#define GIB (1ul << 30)
#define LAPIC 0xfee00000ul
#define IOAPIC 0xfec00000ul
#define ECAM 0xe0000000ul
#define HOLE 0xc0000000ul /* where nothing answers */

#define PORT_ACCESSORS(letter, type)                                                               \
    static inline void out##letter(uint16_t port, type value)                                      \
    {                                                                                              \
        asm volatile("out %0, %1" : : "a"(value), "Nd"(port) : "memory");                          \
    }                                                                                              \
    static inline type in##letter(uint16_t port)                                                   \
    {                                                                                              \
        type value;                                                                                \
        asm volatile("in %1, %0" : "=a"(value) : "Nd"(port) : "memory");                           \
        return value;                                                                              \
    }                                                                                              \
    static inline void outs##letter(uint16_t port, const type *from, size_t count)                 \
    {                                                                                              \
        asm volatile("rep outs" #letter : "+S"(from), "+c"(count) : "d"(port) : "memory");         \
    }                                                                                              \
    static inline void ins##letter(uint16_t port, type *to, size_t count)                          \
    {                                                                                              \
        asm volatile("rep ins" #letter : "+D"(to), "+c"(count) : "d"(port) : "memory");            \
    }
PORT_ACCESSORS(b, uint8_t)
PORT_ACCESSORS(w, uint16_t)
PORT_ACCESSORS(l, uint32_t)

#define MMIO_ACCESSORS(bits)                                                                       \
    static inline uint##bits##_t read##bits(uintptr_t address)                                     \
    {                                                                                              \
        return *(volatile uint##bits##_t *)address;                                                \
    }                                                                                              \
    static inline void write##bits(uintptr_t address, uint##bits##_t value)                        \
    {                                                                                              \
        *(volatile uint##bits##_t *)address = value;                                               \
    }
MMIO_ACCESSORS(8)
MMIO_ACCESSORS(16)
MMIO_ACCESSORS(32)
MMIO_ACCESSORS(64)

struct cpuid {
    uint32_t eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid r;
    asm volatile("cpuid"
                 : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
                 : "a"(leaf), "c"(subleaf));
    return r;
}

/* Sleep until the next interrupt has been handled. STI takes effect behind HLT's start. */
static inline void sleep_once(void)
{
    asm volatile("sti; hlt; cli" : : : "memory");
}

#pragma GCC visibility push(hidden)
void print(const char *text);
void print_number(unsigned long value);
_Noreturn void leave(uint8_t debug_exit_value);
_Noreturn void pass(void);
_Noreturn void fail(const char *why);

#define TEXT_OF(x) #x
#define LINE_OF(x) TEXT_OF(x)
#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what))                                                                               \
            fail(__FILE__ ":" LINE_OF(__LINE__) " " #what);                                        \
    } while (0)

extern const char *command_line; /* set by the entry code */
/* Whether `word` is the command line's first. */
bool command_is(const char *word);

/* Run test_NAME, and nothing after it, if the command line is NAME. */
#define RUN(name)                                                                                  \
    do {                                                                                           \
        if (command_is(#name)) {                                                                   \
            test_##name();                                                                         \
            return;                                                                                \
        }                                                                                          \
    } while (0)

/* Put the PICs' 16 vectors at IRQ_BASE, and let only the IRQs of `enabled` through. */
void remap_pics(uint16_t enabled);
/* End of interrupt for `irq`, at the PICs. */
void end_of_irq(int irq);

/* 64-bit guests only: load an IDT whose gates, 0x20 to 0x2f, all lead to on_interrupt(). */
void load_idt(void);
void on_interrupt(int vector);

void main(const void *boot_information);
#pragma GCC visibility pop
