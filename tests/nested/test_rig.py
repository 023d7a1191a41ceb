"""The nested host itself: what every other test of this level stands on."""

from __future__ import annotations

import signal

import pytest
import rig
from rig import NestedHost, NestedHostError


def test_output_and_status_come_back(nested_host: NestedHost) -> None:
    assert nested_host.run(["sh", "-c", "echo out; echo err >&2; exit 7"]) == (7, "out\nerr\n")


def test_kvm_is_the_real_module(nested_host: NestedHost) -> None:
    status, loaded = nested_host.run(
        ["sh", "-c", "test -c /dev/kvm && cut -d' ' -f1 /proc/modules"]
    )
    assert status == 0
    assert {"kvm_amd", "tun", "vhost_net"} <= set(loaded.split())


def test_a_missing_command_has_the_shells_status(nested_host: NestedHost) -> None:
    status, output = nested_host.run(["no-such-command"])
    assert status == 127
    assert "no-such-command" in output


def test_processes_run_side_by_side(nested_host: NestedHost) -> None:
    first = nested_host.spawn(["cat"])
    second = nested_host.spawn(["cat"])
    second.write(b"two\n")
    second.expect(b"^two$")
    first.write(b"one\n")
    first.expect(b"^one$")
    for process in (first, second):
        process.close_input()
        assert process.wait() == 0
    assert (first.output, second.output) == (b"one\n", b"two\n")


def test_much_output_is_kept_in_order(nested_host: NestedHost) -> None:
    status, output = nested_host.run(["seq", "300000"])
    assert status == 0
    assert output == "".join(f"{number}\n" for number in range(1, 300001))


def test_a_signal_ends_the_children_too(nested_host: NestedHost) -> None:
    process = nested_host.spawn(["sh", "-c", "sleep 1000 & echo started $!; wait"])
    child = process.expect(rb"started (\d+)\n")[1].decode()
    process.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
    assert nested_host.run(["test", "-e", f"/proc/{child}"]) == (1, "")


def test_an_end_does_not_wait_for_a_child_left_behind(nested_host: NestedHost) -> None:
    process = nested_host.spawn(["sh", "-c", "sleep 1000 & echo started"])
    assert process.wait() == 0
    assert process.output == b"started\n"
    nested_host.run(["sh", "-c", "kill $(grep -l sleep /proc/[0-9]*/comm | cut -d/ -f3)"])


def test_what_does_not_end_in_time_is_killed(nested_host: NestedHost) -> None:
    with pytest.raises(NestedHostError, match="Not at its end after 0 s"):
        nested_host.run(["sleep", "1000"], timeout=0)


def test_a_terminal_has_its_size_and_its_keys(nested_host: NestedHost) -> None:
    # One process that prints and then waits: a shell ignores a Ctrl-C that arrives while the
    # command that printed is on its way out.
    program = "import os, time; print(os.get_terminal_size(), flush=True); time.sleep(1000)"
    process = nested_host.spawn(["python3", "-c", program], tty=(33, 111))
    process.expect(rb"columns=111, lines=33")
    process.write(b"\x03")
    assert process.wait() == -signal.SIGINT


def test_the_tree_is_not_written_to(nested_host: NestedHost) -> None:
    assert nested_host.run(["sh", "-c", "echo x > Makefile && rm LICENSE"]) == (0, "")
    assert (rig.TREE / "LICENSE").exists()
    assert (rig.TREE / "Makefile").read_text() != "x\n"


def test_something_that_never_appears_is_said_with_what_did(nested_host: NestedHost) -> None:
    process = nested_host.spawn(["echo", "other"])
    with pytest.raises(NestedHostError, match=r"(?s)'never' did not appear.*ended with 0.*other"):
        process.expect(b"never")
