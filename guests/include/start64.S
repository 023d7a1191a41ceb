# Entry of a 64-bit guest by Linux's 64-bit boot protocol (x86/boot.rst): long mode, the first 4 GiB
# mapped to themselves, RSI = struct boot_params, interrupts off. And the way into on_interrupt().

        .section .text.start, "ax"
        .globl  _start, load_idt
_start: leaq    stack_top(%rip), %rsp
        movl    0x228(%rsi), %eax       # boot_params.hdr.cmd_line_ptr
        movq    %rax, command_line(%rip)
        movq    %rsi, %rdi
        call    main
        call    pass

# A return from interrupt without IRET, which the instruction emulator of a software KVM lacks:
# RIP and RFLAGS go to the stack that was interrupted, below what it holds, and are popped there.
interrupt:                              # on the stack: the vector, then RIP CS RFLAGS RSP SS
        .irp    register, rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11
        pushq   %\register
        .endr
        .set    FRAME, 9 * 8
        cld
        movq    FRAME(%rsp), %rdi
        call    on_interrupt
        movq    FRAME + 32(%rsp), %rdx  # RSP
        movq    FRAME + 8(%rsp), %rax   # RIP
        movq    FRAME + 24(%rsp), %rcx  # RFLAGS
        movq    %rax, -8(%rdx)
        movq    %rcx, -16(%rdx)
        subq    $16, %rdx
        movq    %rdx, FRAME(%rsp)
        .irp    register, r11, r10, r9, r8, rdi, rsi, rdx, rcx, rax
        popq    %\register
        .endr
        movq    (%rsp), %rsp
        popfq
        ret

        .set    FIRST, 0x20
        .set    COUNT, 16
        .balign 16
gates:  .set    vector, FIRST
        .rept   COUNT
        .balign 16
        pushq   $vector
        jmp     interrupt
        .set    vector, vector + 1
        .endr

load_idt:                               # interrupt gates, SDM 3A §6.14.1
        leaq    idt + FIRST * 16(%rip), %rdi
        leaq    gates(%rip), %rax
        movl    $COUNT, %ecx
1:      movw    %ax, (%rdi)
        movw    %cs, 2(%rdi)
        movw    $0x8e00, 4(%rdi)
        movq    %rax, %rdx
        shrq    $16, %rdx
        movw    %dx, 6(%rdi)
        addq    $16, %rax
        addq    $16, %rdi
        decl    %ecx
        jnz     1b
        leaq    idt(%rip), %rax
        movq    %rax, idt_pointer + 2(%rip)
        lidt    idt_pointer(%rip)
        ret

        .weak   on_interrupt            # of those guests that have one
        .data
idt_pointer:
        .word   (FIRST + COUNT) * 16 - 1
        .quad   0                       # filled in above: nothing here knows where it runs
        .bss
        .balign 16
idt:    .skip   (FIRST + COUNT) * 16
stack:  .skip   16384
stack_top:
        .section .note.GNU-stack, "", @progbits
