# Entry of a 32-bit guest as Multiboot starts it (Multiboot specification 0.6.96 §3.2): protected
# mode, flat segments, no paging, EAX = magic, EBX = the Multiboot information.

        .section .text.start, "ax"
        .globl  _start
        .set    FLAGS, 1 << 0 | 1 << 1  # §3.1.2: modules page-aligned, tell about memory
        .balign 4
        .long   0x1badb002, FLAGS, -(0x1badb002 + FLAGS)
_start: movl    $stack_top, %esp
        cmpl    $0x2badb002, %eax
        jne     1f
        movl    16(%ebx), %eax          # §3.3: cmdline
        movl    %eax, command_line
        pushl   %ebx
        call    main
        call    pass
1:      pushl   $why
        call    fail

        .section .rodata
why:    .asciz  "EAX is not the Multiboot magic"
        .bss
        .balign 16
stack:  .skip   16384
stack_top:
        .section .note.GNU-stack, "", @progbits
