# The built-in guest, which `pyvmm run` runs when it is given no kernel: an operating system in one
# file. It shows what a guest has to do for itself: set up segments and interrupts, drive a UART,
# sleep until there is work, find its memory, read the clock, and leave.
#
# It is a Multiboot image (§ are of the Multiboot specification 0.6.96): 32-bit code, at 1 MiB.
# csrc/hello.c assembles it into the extension, where a label's address means nothing to the guest;
# so an address is written as the label's distance from the start of the image, plus 1 MiB.

        .set    IMAGE, 0x100000
        .set    RBR, 0x3f8              # NS16550A data sheet, table 2, for COM1: received byte,
        .set    THR, 0x3f8              # byte to send,
        .set    IER, 0x3f9              # interrupts: bit 0, a byte was received,
        .set    MCR, 0x3fc              # modem control: on a PC, bit 3 lets the interrupt through,
        .set    LSR, 0x3fd              # line status: bit 0, received; bit 5, ready to send
        .set    COM1_IRQ, 4
        .set    PIC1, 0x20              # Intel 8259A: command port, then data port
        .set    PIC2, 0xa0
        .set    PIC_BASE, 0x20          # vector of IRQ 0; those below are the CPU's exceptions
        .set    CMOS, 0x70              # MC146818: index port, then data port
        .set    DEBUG_EXIT, 0xf4        # QEMU's isa-debug-exit
        .set    PM1A_CONTROL, 0x604     # ACPI 6.4 §4.8.3.2.1
        .set    SLEEP_S5, 1 << 13 | 5 << 10
        .set    RESET_CONTROL, 0xcf9    # Intel ICH9 data sheet §13.7.5
        .set    HARD_RESET, 6
        .set    LINE_MAX, 80

        .macro  POINTER to:req
        .long   \to - hello + IMAGE
        .endm
        .macro  ADDRESS of:req, to:req
        movl    $(\of - hello + IMAGE), \to
        .endm
        .macro  PRINT what:req
        ADDRESS \what, %esi
        call    print
        .endm
        .macro  OUT port:req, values:vararg
        .irp    value, \values
        movw    $\port, %dx
        movb    $(\value), %al
        outb    %al, %dx
        .endr
        .endm

        .code32
hello:  .set    FLAGS, 1 << 1 | 1 << 16 # §3.1.2: give us a memory map; the addresses below hold
        .long   0x1badb002, FLAGS, -(0x1badb002 + FLAGS)
        POINTER hello                   # §3.1.3: the header goes here,
        POINTER hello                   # what is loaded begins here
        POINTER image_end               # and ends here,
        .long   BSS_END                 # memory is zeroed up to here,
        POINTER start                   # and this is the entry

        .set    BSS, (image_end - hello + IMAGE + 15) & ~15
        .set    boot_info, BSS          # where the Multiboot information is
        .set    digits, BSS + 16
        .set    clock, digits + 16      # second, minute, hour, day, month, year, century
        .set    line, clock + 16        # what the user types
        .set    idt, BSS + 256
        .set    COM1_GATE, idt + 8 * (PIC_BASE + COM1_IRQ)
        .set    BSS_END, idt + 4096     # the stack grows down from there

# ---- Start: nothing comes before the greeting ----
start:  movl    $BSS_END, %esp
        movl    %ebx, boot_info         # §3.2
        PRINT   greeting

        lgdtl   gdt_pointer - hello + IMAGE
        ljmpl   $8, $(1f - hello + IMAGE)
1:      movl    $16, %eax
        .irp    segment, ds, es, ss
        movl    %eax, %\segment
        .endr

        ADDRESS on_interrupt, %eax      # an interrupt gate, SDM 3A §6.11, for COM1 alone
        movw    %ax, COM1_GATE
        movl    $8, COM1_GATE + 2
        movw    $0x8e00, COM1_GATE + 4
        shrl    $16, %eax
        movw    %ax, COM1_GATE + 6
        lidtl   idt_pointer - hello + IMAGE

        OUT     PIC1, 0x11              # ICW1 to ICW4: edge-triggered, with a second PIC at IRQ 2
        OUT     PIC1 + 1, PIC_BASE, 1 << 2, 1, ~(1 << COM1_IRQ) & 0xff
        OUT     PIC2, 0x11
        OUT     PIC2 + 1, PIC_BASE + 8, 2, 1, 0xff
        OUT     MCR, 1 << 3
        OUT     IER, 1 << 0

# ---- The command loop ----
next_command:
        PRINT   prompt
        call    read_line
        cmpb    $0, line
        je      next_command
        ADDRESS commands, %ebx
1:      movl    $line, %esi
        movl    (%ebx), %edi
        movl    4(%ebx), %ecx
        jecxz   2f                      # the end of the table, which stands for all other words
        repe    cmpsb
        jne     3f
        cmpb    $' ', (%esi)            # the name must end where the word does
        ja      3f
        jb      2f
        incl    %esi                    # ESI: what was typed behind the name
2:      call    *8(%ebx)
        jmp     next_command
3:      addl    $12, %ebx
        jmp     1b

        .macro  COMMANDS names:vararg   # a name, its length, what to call
commands:
        .irp    name, \names
        POINTER name_\name
        .long   end_\name - name_\name
        POINTER \name
        .endr
        .long   0, 0
        POINTER unknown
        .irp    name, \names
name_\name: .ascii "\name"
end_\name:
        .endr
        .endm
        COMMANDS help, cpus, memory, time, echo, panic, exit, reboot, poweroff, crash

# ---- The commands, which may change every register ----
unknown:
        PRINT   unknown_text
help:   PRINT   help_text
        ret

cpus:   xorl    %eax, %eax
        cpuid
        movl    $1, %edi                # if the CPU does not tell
        cmpl    $0xb, %eax              # leaf 0xB has a part for each level of the topology,
        jb      2f
        xorl    %esi, %esi
1:      movl    $0xb, %eax
        movl    %esi, %ecx
        cpuid
        testl   $0xff00, %ecx           # whose kind is 0 behind the last,
        jz      2f
        movzwl  %bx, %edi               # and the last counts all logical CPUs
        incl    %esi
        cmpl    $8, %esi                # a CPU that never ends
        jb      1b
2:      movl    %edi, %eax
        call    print_decimal
        PRINT   cpus_text
        movl    $0x40000000, %eax       # the leaf where a hypervisor signs
        cpuid
        movl    $line, %esi
        movl    %ebx, (%esi)
        movl    %ecx, 4(%esi)
        movl    %edx, 8(%esi)
        movb    $0, 12(%esi)
        jmp     print_line

memory: movl    boot_info, %ebx         # §3.3: flag 6, and the length and address of the map
        testl   $1 << 6, (%ebx)
        jz      3f
        movl    48(%ebx), %edi
        movl    44(%ebx), %ebx
        addl    %edi, %ebx
1:      cmpl    %ebx, %edi              # an entry has its size, not counting itself, base, length
        jae     3f                      # and type
        movl    4(%edi), %ecx
        movl    8(%edi), %eax
        call    print_hex64
        PRINT   dash
        movl    4(%edi), %ecx
        movl    8(%edi), %eax
        addl    12(%edi), %ecx
        adcl    16(%edi), %eax
        call    print_hex64
        ADDRESS ram_text, %esi
        cmpl    $1, 20(%edi)
        je      2f
        ADDRESS reserved_text, %esi
2:      call    print_line
        addl    (%edi), %edi
        addl    $4, %edi
        jmp     1b
3:      ret

time:   movb    $0xa, %al               # status A, bit 7: the clock is about to change
        call    read_cmos
        testb   %al, %al
        js      time
        movl    $clock, %edi
        ADDRESS clock_registers, %esi
        movl    $7, %ecx
1:      lodsb
        call    read_cmos
        stosb
        loop    1b
        movb    $0, %al                 # has a second gone by meanwhile?
        call    read_cmos
        cmpb    clock, %al
        jne     time
        movb    $0xb, %al               # status B, bit 2: binary, not BCD
        call    read_cmos
        movb    %al, %bl
        ADDRESS clock_format, %edi
2:      movzbl  (%edi), %eax            # which of the seven, and what to print behind it
        movb    clock(%eax), %al
        testb   $1 << 2, %bl
        jz      3f
        aam                             # binary to BCD
        shlb    $4, %ah
        orb     %ah, %al
3:      movb    %al, %cl
        shrb    $4, %al
        call    print_digit
        movb    %cl, %al
        call    print_digit
        movb    1(%edi), %al
        addl    $2, %edi
        cmpb    $0, %al
        je      2b
        call    put
        cmpb    $'\n', %al
        jne     2b
        ret

read_cmos:                              # AL: register AL of the clock
        outb    %al, $CMOS
        inb     $CMOS + 1, %al
        ret

panic:  PRINT   panic_text
        cli
        hlt

echo:
print_line:
        call    print
        movb    $'\n', %al
        jmp     put

exit:   xorl    %eax, %eax
1:      movzbl  (%esi), %edx
        incl    %esi
        subl    $'0', %edx
        cmpl    $9, %edx
        ja      2f
        imull   $10, %eax
        addl    %edx, %eax
        jmp     1b
2:      outb    %al, $DEBUG_EXIT
        ret

reboot: OUT     RESET_CONTROL, HARD_RESET
        ret

poweroff:
        movw    $PM1A_CONTROL, %dx
        movw    $SLEEP_S5, %ax
        outw    %ax, %dx
        ret

crash:  lidtl   null - hello + IMAGE    # no room for any handler: the third fault is the last
        ud2

# ---- The serial port ----
read_line:                              # into `line`, with echo
        movl    $line, %edi
1:      call    get
        cmpb    $'\r', %al
        je      3f
        cmpb    $'\n', %al
        je      3f
        cmpb    $'\b', %al
        je      2f
        cmpb    $0x7f, %al              # most terminals' backspace
        je      2f
        cmpb    $' ', %al
        jb      1b
        cmpl    $line + LINE_MAX, %edi
        jae     1b
        stosb
        call    put
        jmp     1b
2:      cmpl    $line, %edi
        je      1b
        decl    %edi
        PRINT   rub_out
        jmp     1b
3:      movb    $0, (%edi)
        movb    $'\n', %al
        jmp     put

on_interrupt:                           # It can only come at the HLT below, and goes on behind it,
        OUT     PIC1, 0x20              # without the IRET that some software KVMs cannot emulate
        addl    $12, %esp               # OCW2, end of interrupt
get:    # AL: the next byte. STI lets interrupts in behind the *next* instruction, so that none can
        # come between the look and the sleep and leave us asleep with a byte in the UART.
        movw    $LSR, %dx
        inb     %dx, %al
        testb   $1 << 0, %al
        jnz     1f
        sti
        hlt
1:      movw    $RBR, %dx
        inb     %dx, %al
        ret

print:  # the text at ESI, up to a NUL
        lodsb
        cmpb    $0, %al
        je      1f
        call    put
        jmp     print
put:    # AL, which it keeps; terminals want CR before LF
        cmpb    $'\n', %al
        jne     2f
        movb    $'\r', %al
        call    2f
        movb    $'\n', %al
2:      movb    %al, %ah
        movw    $LSR, %dx
3:      inb     %dx, %al
        testb   $1 << 5, %al
        jz      3b
        movw    $THR, %dx
        movb    %ah, %al
        outb    %al, %dx
1:      ret

print_decimal:                          # EAX
        xorl    %edx, %edx
        movl    $10, %ecx
        divl    %ecx
        pushl   %edx
        testl   %eax, %eax
        jz      1f
        call    print_decimal           # the digits to the left
1:      popl    %eax
print_digit:                            # AL[3:0], in hexadecimal
        andb    $0xf, %al
        addb    $'0', %al
        cmpb    $'9', %al
        jbe     put
        addb    $'a' - '9' - 1, %al
        jmp     put

print_hex64:                            # EAX:ECX
        pushl   %ecx
        call    1f
        popl    %eax
1:      movl    %eax, %esi
        movl    $8, %ecx
2:      roll    $4, %esi
        movl    %esi, %eax
        call    print_digit
        loop    2b
        ret

# ---- Tables and texts ----
gdt:    .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff       # flat: code is 8, data is 16
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        POINTER gdt
idt_pointer:
        .word   COM1_GATE - idt + 7
        .long   idt
null:   .word   0, 0, 0
clock_registers:                        # the century is where the FADT says
        .byte   0, 2, 4, 7, 8, 9, 0x32
clock_format:
        .byte   6, 0, 5, '-', 4, '-', 3, ' ', 2, ':', 1, ':', 0, '\n'
greeting:       .asciz  "pyvmm: hello from the guest. Try help.\n"
prompt:         .asciz  "> "
rub_out:        .asciz  "\b \b"
dash:           .asciz  " - "
ram_text:       .asciz  " RAM"
reserved_text:  .asciz  " reserved"
cpus_text:      .asciz  " CPU(s), under "
panic_text:     .ascii  "Kernel panic - not syncing: as you asked\n"
                .asciz  "---[ end Kernel panic - not syncing: as you asked ]---\n"
unknown_text:   .asciz  "Unknown command. "
help_text:      .ascii  "Commands: help cpus memory time, echo TEXT,\n"
                .asciz  "panic, exit N, reboot, poweroff, crash\n"
image_end:
