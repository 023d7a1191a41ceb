"""What `pyvmm doctor` says of each kind of host, by a KVM that is made for the test."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import pytest

from pyvmm import doctor
from pyvmm.errors import HostError, KvmError
from pyvmm.kvm import exits


class FakeKvm:
    """A /dev/kvm that has what the class says."""

    lacks: frozenset[str] = frozenset()

    def __enter__(self) -> FakeKvm:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        pass

    def capability(self, name: str) -> int:
        return 0 if name in self.lacks else 4


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A host on which everything works; a test breaks something."""
    monkeypatch.setattr(doctor, "Kvm", FakeKvm)
    monkeypatch.setattr(doctor, "module", lambda: "kvm_intel")
    monkeypatch.setattr(doctor, "_run_code", lambda kvm, code: (exits.Hlt(), 1e-4))
    return monkeypatch


def fatal() -> list[str]:
    return [str(finding) for finding in doctor.examine() if finding.fatal]


def test_a_good_host_has_nothing_fatal(host: pytest.MonkeyPatch) -> None:
    assert fatal() == []
    text = "\n".join(map(str, doctor.examine()))
    assert "can be opened; kvm_intel" in text
    assert "400.0 million instructions a second" in text
    assert "at most 4, 4 recommended" in text


def test_a_device_that_cannot_be_opened_is_fatal_and_says_why(host: pytest.MonkeyPatch) -> None:
    def refuse() -> FakeKvm:
        raise HostError("/dev/kvm may not be opened")

    host.setattr(doctor, "Kvm", refuse)
    host.setattr("os.path.exists", lambda path: True)
    assert fatal() == ["FAIL  /dev/kvm: /dev/kvm may not be opened"]


@pytest.mark.parametrize("name", doctor.REQUIRED)
def test_a_kvm_that_is_too_old_is_fatal(host: pytest.MonkeyPatch, name: str) -> None:
    host.setattr(FakeKvm, "lacks", frozenset({name}))
    assert len(fatal()) == 1
    assert f"KVM_CAP_{name}" in fatal()[0]
    assert "must be Linux" in fatal()[0]


@pytest.mark.parametrize("name", doctor.USEFUL)
def test_what_is_only_useful_is_not_fatal(host: pytest.MonkeyPatch, name: str) -> None:
    host.setattr(FakeKvm, "lacks", frozenset({name}))
    assert fatal() == []
    assert f"lack  KVM_CAP_{name}: {doctor.USEFUL[name]}" in map(str, doctor.examine())


def test_a_software_kvm_that_interprets_kernel_code_is_called_slow(
    host: pytest.MonkeyPatch,
) -> None:
    host.setattr(doctor, "module", lambda: doctor.SOFTWARE_KVM)
    host.setattr(doctor, "_run_code", lambda kvm, code: (exits.Hlt(), 0.05))
    text = "\n".join(map(str, doctor.examine()))
    assert "a software KVM" in text
    assert "lack  kernel code: runs at 0.8 million instructions a second: it is interpreted" in text


def test_an_instruction_that_cannot_be_emulated_is_fatal(host: pytest.MonkeyPatch) -> None:
    def run(kvm: object, code: bytes) -> tuple[exits.Exit, float]:
        ended = exits.InternalError(1, ()) if code == doctor.CMPXCHG16B else exits.Hlt()
        return ended, 1e-4

    host.setattr(doctor, "_run_code", run)
    assert len(fatal()) == 1
    assert "cmpxchg16b" in fatal()[0]
    assert "The cure is a host with hardware virtualization" in fatal()[0]


def test_a_guest_that_does_not_run_is_fatal(host: pytest.MonkeyPatch) -> None:
    host.setattr(doctor, "_run_code", lambda kvm, code: (exits.Shutdown(), 1e-4))
    assert fatal() == ["FAIL  a test guest: ended with Shutdown()"]


def test_an_ioctl_that_fails_is_fatal(host: pytest.MonkeyPatch) -> None:
    def refuse(kvm: object, code: bytes) -> tuple[exits.Exit, float]:
        raise KvmError("KVM_CREATE_VM", 12)

    host.setattr(doctor, "_run_code", refuse)
    assert fatal() == ["FAIL  a test guest: KVM_CREATE_VM failed: Cannot allocate memory [ENOMEM]"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu vmx", "ok    processor: has Intel VT-x"),
        ("fpu svm", "ok    processor: has AMD-V"),
        ("fpu hypervisor", "without nested virtualization"),
        ("fpu", "it may be off in the firmware"),
    ],
)
def test_the_processors_flags_are_read(
    host: pytest.MonkeyPatch, tmp_path: Path, flags: str, expected: str
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    host.setattr(doctor, "open", lambda path: cpuinfo.open(), raising=False)
    assert expected in str(doctor.examine()[0])
