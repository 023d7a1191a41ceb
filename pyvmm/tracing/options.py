"""`--trace PATTERN[,file=FILE][,format=text|json]`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from pyvmm.errors import UsageError
from pyvmm.suboptions import parse, split
from pyvmm.tracing.points import Selection
from pyvmm.tracing.sinks import format_of, open_sink
from pyvmm.tracing.tracer import Tracer

FORMS = {"file": "FILE", "format": "text|json"}


def parse_traces(texts: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """The patterns for each file and its format; the file `` is standard error.

    Raises UsageError.
    """
    patterns: dict[tuple[str, str], list[str]] = {}
    for text in texts:
        pattern, *words = split(text)
        options = parse("A trace", words, FORMS)
        path = options.get("file", "")
        target = path, options.get("format", format_of(path))
        if any(path == other for other, _ in patterns) and target not in patterns:
            raise UsageError(f"{path or 'Standard error'} must have traces of one format only")
        patterns.setdefault(target, []).append(pattern)
    return patterns


def open_traces(tracer: Tracer, texts: Sequence[str], stack: ExitStack) -> None:
    """Trace what the values of --trace say, until `stack` is unwound.

    Raises UsageError or HostError.
    """
    chosen = [(target, Selection(*patterns)) for target, patterns in parse_traces(texts).items()]
    for (path, format), selection in chosen:
        output = tracer.add(selection, open_sink(path, format, tracer.origin))
        stack.callback(tracer.remove, output)
