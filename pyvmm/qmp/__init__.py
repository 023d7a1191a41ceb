"""QMP: QEMU's machine protocol, for the programs that speak it.

General layout:

    server.py       the front end: its clients, and the machine's events to all of them
    client.py       one client: greeting, negotiation, commands one after the other
    stream.py       bytes into JSON values, bounded
    outbox.py       what waits to be sent to a client, bounded
    schema.py       types: checked where they enter, and described for query-qmp-schema
    command.py      a command is one function, whose annotations are its schema
    commands/       the table, a module for each group
    events.py       the machine's events as the protocol has them

Source of the protocol: QEMU, docs/interop/qmp-spec; of commands and events: QEMU, qapi/*.json.
"""
