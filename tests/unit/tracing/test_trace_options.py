"""The values of --trace."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from pyvmm.errors import UsageError
from pyvmm.tracing.options import open_traces, parse_traces
from pyvmm.tracing.tracer import Tracer


def test_a_pattern_alone_goes_to_standard_error_as_text() -> None:
    assert parse_traces(["exit.*"]) == {("", "text"): ["exit.*"]}


def test_patterns_for_the_same_file_share_it() -> None:
    assert parse_traces(["exit.*,file=a.json", "request.*@vda,file=a.json", "irq.*"]) == {
        ("a.json", "json"): ["exit.*", "request.*@vda"],
        ("", "text"): ["irq.*"],
    }


def test_a_format_that_is_given_wins() -> None:
    assert parse_traces(["exit.*,file=a,format=json"]) == {("a", "json"): ["exit.*"]}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["exit.*,file=a", "irq.*,file=a,format=json"], "a must have traces of one format only"),
        (["exit.*,format=json", "irq.*"], "Standard error must have traces of one format only"),
        (["exit.*,to=a"], "A trace has no option 'to'; there are file, format"),
        (["exit.*,file="], "file must be given as file=FILE"),
    ],
)
def test_what_cannot_be_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_traces(texts)
    assert str(caught.value) == message


def test_nothing_is_opened_if_a_pattern_is_wrong(tracer: Tracer, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    with ExitStack() as stack, pytest.raises(UsageError, match="no trace point 'exits'"):
        open_traces(tracer, [f"exit.*,file={path}", "exits"], stack)
    assert not path.exists()


def test_a_trace_ends_with_the_stack(tracer: Tracer, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    with ExitStack() as stack:
        open_traces(tracer, [f"queue.*,file={path}"], stack)
        tracer.instant("queue.kick", "vda", queue=0)
    tracer.instant("queue.kick", "vda", queue=1)
    assert [line.split()[-1] for line in path.read_text().splitlines()] == ["queue=0"]
