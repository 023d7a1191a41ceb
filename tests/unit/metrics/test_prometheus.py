"""Prometheus's text format against its own parser, and the HTTP around it."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pyvmm.loop import start_thread
from pyvmm.metrics import prometheus
from pyvmm.metrics.counters import Family
from pyvmm.metrics.prometheus import PATH, Metrics, text

LABELS = st.dictionaries(st.sampled_from(["vcpu", "device", "name"]), st.text(), max_size=3)
NUMBERS = st.floats(allow_nan=False) | st.integers(0, 1 << 53)
FAMILIES = st.builds(
    Family,
    st.just("some_number"),
    st.just("Words that help"),
    st.booleans(),
    st.lists(st.tuples(LABELS, NUMBERS), min_size=1, max_size=4),
)


@given(FAMILIES)
def test_a_parser_of_the_format_reads_what_was_written(family: Family) -> None:
    (read,) = text_string_to_metric_families(text([family]))
    assert (read.name, read.documentation) == ("pyvmm_some_number", "Words that help")
    assert read.type == ("counter" if family.total else "gauge")
    name = "pyvmm_some_number" + "_total" * family.total
    assert [(one.name, one.labels, one.value) for one in read.samples] == [
        (name, labels, value) for labels, value in family.samples
    ]


def test_each_family_says_what_it_is() -> None:
    families = [
        Family("exits", "Exits", True, [({"vcpu": "0", "kind": "hlt"}, 7)]),
        Family("vcpus", "Its vCPUs", False, [({}, 2)]),
    ]
    assert text(families).splitlines() == [
        "# HELP pyvmm_exits_total Exits",
        "# TYPE pyvmm_exits_total counter",
        'pyvmm_exits_total{vcpu="0",kind="hlt"} 7',
        "# HELP pyvmm_vcpus Its vCPUs",
        "# TYPE pyvmm_vcpus gauge",
        "pyvmm_vcpus 2",
    ]


class Stub(Metrics):
    """Without a machine: the counters are one number."""

    def __init__(self) -> None:
        self._counters = self  # type: ignore[assignment]

    def read(self) -> list[Family]:
        return [Family("vcpus", "Its vCPUs", False, [({}, 2)])]


def answer(request: bytes) -> bytes:
    """What a client gets that sends `request` and no more."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = start_thread("client", _send, ours, request)
        Stub()._serve(theirs)
        theirs.shutdown(socket.SHUT_RDWR)
        sender.join()
        return b"".join(iter(lambda: ours.recv(1 << 16), b""))


def _send(client: socket.socket, request: bytes) -> None:
    client.sendall(request)
    client.shutdown(socket.SHUT_WR)


def status(answer: bytes) -> int:
    return int(answer.split()[1])


@pytest.mark.parametrize("path", [PATH, f"{PATH}?name=exits"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_who_asks_for_the_metrics_gets_them(path: str, version: str) -> None:
    head, _, body = (
        answer(f"GET {path} HTTP/{version}\r\nHost: a\r\n\r\n".encode())
        .decode()
        .partition("\r\n\r\n")
    )
    lines = head.split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK"
    assert "Content-Type: text/plain; version=0.0.4; charset=utf-8" in lines
    assert f"Content-Length: {len(body)}" in lines
    assert body.endswith("\npyvmm_vcpus 2\n")


def test_head_is_the_same_without_the_body() -> None:
    head, whole = (answer(f"{m} {PATH} HTTP/1.1\r\n\r\n".encode()) for m in ("HEAD", "GET"))
    assert whole.startswith(head)
    assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metricsx HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET /metrics HTTP/2\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n", 400),
        (b"", 400),
        (b"\r\n\r\n", 400),
        (b"\xff\xfe\r\n\r\n", 400),
    ],
)
def test_other_requests_get_the_status_that_is_meant_for_them(
    request_: bytes, expected: int
) -> None:
    assert status(answer(request_)) == expected


@given(st.binary(max_size=200))
def test_rubbish_is_a_bad_request(rubbish: bytes) -> None:
    assert status(answer(rubbish + b"\r\n\r\n")) in (400, 404, 405)


def test_a_request_without_an_end_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(bytes(prometheus.REQUEST_MAX))
        assert prometheus._request(ours) == ("", "")


def test_a_client_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "REQUEST_SECONDS", 0.05)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"GET ")
        with pytest.raises(TimeoutError):
            prometheus._request(ours)
