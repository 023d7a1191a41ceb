"""What a guest's memory and registers tell.

General layout:

    views.py          a machine that stands still, as the others see it
    paging.py         page tables, and memory by virtual address
    registers.py      registers by name; chips.py: the interrupt controllers'
    expressions.py    `$rsp+8`: an address as a person writes it; names.py: what is there
    dump.py           memory as text; disassembly.py: as instructions
    places.py         who answers which address
    guest.py          the kernel in the guest, and what it keeps: symbols.py, kallsyms.py, btf.py,
                      tasks.py, log.py, backtrace.py with orc.py
    coredump.py       all of it in a file for gdb and crash
"""
