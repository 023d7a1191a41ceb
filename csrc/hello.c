/* The built-in guest, guests/hello.S, as data of the extension: starting it reads no file. */
__asm__(".pushsection .rodata\n"
        ".globl pv_hello, pv_hello_size\n"
        "pv_hello:\n"
        ".include \"hello.S\"\n"
        "pv_hello_end:\n"
        ".balign 4\n"
        "pv_hello_size: .long pv_hello_end - pv_hello\n"
        ".popsection\n"
        ".code64\n");
