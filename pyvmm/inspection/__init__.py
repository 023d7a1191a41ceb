"""What a machine's vCPUs, memory and chips hold, for the monitor and the debugger.

General layout:

    paging.py         page tables: walking them, and memory by virtual address
    registers.py      a vCPU's registers by name
    expressions.py    `$rsp+8`, `linux_banner+0x10`: an address as a person writes it
    disassembly.py    instructions, by capstone
    dump.py           memory as QEMU's x and xp show it
    chips.py          the interrupt controllers' registers in words
    places.py         who answers which address, and which interrupt is whose
"""
