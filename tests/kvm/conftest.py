"""What the tests on a real /dev/kvm share: bare vCPUs, machines, and what this KVM cannot do."""

from __future__ import annotations

import mmap
import signal
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyvmm import Linux, Machine
from pyvmm.errors import HostError
from pyvmm.kvm import Kvm, Vcpu, exits
from pyvmm.kvm.vcpu import segment
from pyvmm.native import ffi

SOFTWARE_KVM = Path("/sys/module/kvm_pvm").exists()
EMULATED_CPU = "QEMU TCG" in Path("/proc/cpuinfo").read_text()  # where all is 20 times slower
MIB = 1 << 20
CODE = 0x1000  # where a bare guest begins
TIMEOUT = 20.0  # seconds for what takes milliseconds: only a lost event takes longer

# Writes `!` to COM1, waits for PM1 status bit 8 (ACPI 6.4 §4.8.3.1.1), and enters S5:
#   mov dx,0x3f8; mov al,'!'; out dx,al; mov dx,0x600; 1: in ax,dx; test ah,1; jz 1b
#   mov dx,0x604; mov ax,0x3400; out dx,ax; jmp .
LISTENS = bytes.fromhex("66baf803b021ee66ba000666edf6c40174f966ba040666b8003466efebfe")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    try:
        Kvm().close()
    except HostError as error:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=str(error)))


class Bare:
    """A VM of 1 MiB with one vCPU in real mode, and nothing of pyvmm but pyvmm.kvm."""

    def __init__(self, stack: ExitStack, kvm: Kvm, *, irqchip: bool) -> None:
        self.memory = mmap.mmap(-1, MIB)
        stack.callback(self.memory.close)
        view = memoryview(self.memory)
        stack.callback(view.release)
        self.vm = stack.enter_context(kvm.create_vm())
        self.vm.set_memory(0, 0, view)
        if irqchip:
            self.vm.create_irqchip()
        self.vcpu: Vcpu = stack.enter_context(self.vm.create_vcpu(0))
        sregs = self.vcpu.sregs
        sregs.cs.base = sregs.cs.selector = 0
        self.vcpu.sregs = sregs

    def load(self, code: str, at: int = CODE) -> None:
        """Put `code`, in hexadecimal, into memory, and go there."""
        data = bytes.fromhex(code)
        self.memory[at : at + len(data)] = data
        regs = self.vcpu.regs
        regs.rip, regs.rflags, regs.rsp = at, 2, CODE
        self.vcpu.regs = regs

    def protect(self) -> None:
        """Go to 32-bit protected mode, with flat segments and an IDT without room for a gate."""
        sregs = self.vcpu.sregs
        sregs.cs = segment(0x10, 0xB)
        sregs.ds = sregs.es = sregs.ss = segment(0x18, 0x3)
        sregs.cr0 |= 1
        sregs.idt.limit = 0
        self.vcpu.sregs = sregs

    def set_lapic(self, register: int, value: int) -> None:
        """Write 32 bits at an offset of the local APIC (SDM 3A table 10-1)."""
        lapic = self.vcpu.lapic
        ffi.buffer(lapic.regs)[register : register + 4] = value.to_bytes(4, "little")
        self.vcpu.lapic = lapic

    def run(self) -> exits.Exit:
        """The next exit; Interrupted if there is none for a long time."""
        return run(self.vcpu)


def run(vcpu: Vcpu) -> exits.Exit:
    """Run on a thread of its own, so that a guest that hangs fails the test and no more."""
    results: list[exits.Exit] = []

    def body() -> None:
        vcpu.enter_thread()
        results.append(vcpu.run())
        vcpu.leave_thread()

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    if thread.is_alive():
        vcpu.kick()
        thread.join(TIMEOUT)
    return results[0]


@pytest.fixture
def kvm() -> Iterator[Kvm]:
    with Kvm() as kvm:
        yield kvm


@pytest.fixture
def bare(kvm: Kvm) -> Iterator[Bare]:
    with ExitStack() as stack:
        yield Bare(stack, kvm, irqchip=False)


@pytest.fixture
def bare_irqchip(kvm: Kvm) -> Iterator[Bare]:
    with ExitStack() as stack:
        yield Bare(stack, kvm, irqchip=True)


def program(name: str) -> str:
    """The path of a tiny guest; `make guests` builds them."""
    return str(Path(__file__).parents[2] / f"build/guests/{name}.elf")


@contextmanager
def machine(name: str, cmdline: str = "", **settings: Any) -> Iterator[Machine]:
    """A running machine with a tiny guest."""
    settings = {"memory": "16M", "no_reboot": True, **settings}
    with Machine(boot=Linux(program(name), cmdline=cmdline), **settings) as vm:
        vm.start()
        yield vm


@pytest.fixture(scope="session", autouse=True)
def signals_as_on_a_terminal() -> None:
    """A shell ignores some signals for what it runs in the background, and that is inherited."""
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the machines of this test alone register."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    return tmp_path / "pyvmm"


@pytest.fixture
def listener(tmp_path: Path) -> str:
    """A Multiboot image (specification 0.6.96 §3.1) that powers off when the button is pressed."""
    magic, flags, load, header = 0x1BADB002, 1 << 16, 0x10_0000, 32
    end = load + header + len(LISTENS)
    fields = (magic, flags, -(magic + flags) & 0xFFFF_FFFF, load, load, end, end, load + header)
    path = tmp_path / "listener"
    path.write_bytes(struct.pack("<8I", *fields) + LISTENS)
    return str(path)


def numbered_disk(path: Path) -> Path:
    """The image that guests/virtio_blk.c wants: each of 2048 sectors begins with its number."""
    path.write_bytes(b"".join(number.to_bytes(512, "little") for number in range(2048)))
    return path
