/* guest/init.c, compiled, as data of the extension: a machine with a root directory has it. */
__asm__(".pushsection .rodata\n"
        ".globl pv_init, pv_init_size\n"
        "pv_init:\n"
        ".incbin \"init\"\n"
        "pv_init_end:\n"
        ".balign 4\n"
        "pv_init_size: .long pv_init_end - pv_init\n"
        ".popsection\n");
