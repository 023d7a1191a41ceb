"""Tracing: what a machine does, told as it happens.

General layout:

    points.py      the trace points by name, and choices of them by pattern
    event.py       what passes one, also as the C code notes it (csrc/trace.h)
    tracer.py      a machine's tracer: collects events on a thread of its own, hands them to sinks
    sinks.py       where they go: text, Chrome's JSON, the last few for the monitor
    switches.py    what the monitor has switched on
    options.py     `--trace`
    recording.py   every exit in a file, and how that is read again
    rates.py       what happens in a second, for `top`

The devices know pyvmm/hooks.py only, and nothing here is imported before somebody traces.
"""
