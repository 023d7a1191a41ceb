"""The monitor: what a person, a program or a debugger may ask of a running machine.

General layout:

    command.py      a command: a function, whose parameters say how its arguments are read
    kinds.py        the kinds of arguments: how each is parsed and completed
    result.py       what commands return, and its text
    session.py      one user of the commands: runs lines, completes them, is interrupted
    commands/       the table, a module for each group

The front ends are clients of it: the console, pyvmm/qmp and pyvmm/gdb. Nothing here is imported
before the first of them is used.
"""
