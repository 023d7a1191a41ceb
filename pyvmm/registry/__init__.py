"""The machines that run: each registers itself where the user's other processes find it.

General layout:

    entry.py        this process's own entries; the only part that a start imports
    machines.py     the entries of all, and what they can be asked
    protocol.py     how a conversation on a control socket begins
    services.py     what answers on a machine's control socket, imported when it is first used
    console.py      the first serial port, shared with those who attach to it
    commands.py     `pyvmm ps`, `stop`, `console`, `stat` and `monitor`

The directory is `pyvmm` in XDG_RUNTIME_DIR, or where `entry.directory` says. In it a machine has
two files, named by its process, PID or, for the second of a process, PID.2: ID.json says what it
is, and ID.sock is its control socket. That socket is also the proof of life: an entry whose socket
refuses is a dead process's, whoever has its number now.
"""
