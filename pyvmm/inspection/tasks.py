"""The processes of a Linux guest, read from its memory.

Where the members of its structures lie is told by the kernel's type information. The list is
followed without the kernel's locks, so the guest must stand still; it is data that the guest wrote,
so it is bounded, and ends where it is damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pyvmm.errors import MemoryAccessError
from pyvmm.inspection import tasks_spec as spec
from pyvmm.inspection.btf import Btf
from pyvmm.inspection.kernel import GuestKernel
from pyvmm.layout import PAGE
from pyvmm.value import Value

TASKS_MAX = 1 << 16
CPUS_MAX = 1 << 10
WORD = 8


class Task(Value):
    """One process: `state` is ps(1)'s letter, `cpu` where it runs or ran, `resident` in bytes.

    `name` is the guest's word: make it printable.
    """

    pid: int
    parent: int
    state: str
    cpu: int
    resident: int
    threads: int
    kernel: bool
    name: str


def read_tasks(
    kernel: GuestKernel,
    address: Callable[[str], int],
    btf: Btf,
    check: Callable[[], object] = lambda: None,
) -> list[Task]:
    """All processes in the order in which they began; `address` is that of a symbol.

    `check` is called for each and may raise to end it.
    Raises LookupError for a symbol or a member that this kernel does not have. Any thread.
    """
    reader = _Reader(kernel, address, btf)
    tasks: list[Task] = []
    try:
        for place in reader.places():
            check()
            tasks.append(reader.task(place))
    except MemoryAccessError:  # the list is damaged from here on
        pass
    return tasks


class _Reader:
    def __init__(self, kernel: GuestKernel, address: Callable[[str], int], btf: Btf) -> None:
        self._kernel = kernel
        self._init = address("init_task")
        names = ("tasks", "tgid", "real_parent", "exit_state", "flags", "mm", "signal", "comm")
        self._at = {name: btf.offset(f"task_struct.{name}") for name in names}
        state, cpu = "task_struct.__state", "task_struct.thread_info.cpu"  # from 5.14 and 5.18 on
        self._state = btf.offset(state if btf.has(state) else "task_struct.state")
        self._cpu = btf.offset(cpu if btf.has(cpu) else "task_struct.cpu")
        self._comm_size = btf.size("task_struct.comm")
        self._threads = btf.offset("signal_struct.nr_threads")
        self._resident = _resident_reader(kernel, address, btf)

    def places(self) -> Iterator[int]:
        """Where each task_struct lies."""
        at = self._init
        for _ in range(TASKS_MAX):
            at = self._kernel.u64(at + self._at["tasks"]) - self._at["tasks"]
            if at == self._init:
                return
            yield at

    def task(self, at: int) -> Task:
        """The one that lies there. Raises MemoryAccessError."""
        kernel, offset = self._kernel, self._at
        mm = kernel.u64(at + offset["mm"])
        signal = kernel.u64(at + offset["signal"])
        comm = kernel.read(at + offset["comm"], self._comm_size)
        return Task(
            pid=kernel.u32(at + offset["tgid"]),
            parent=kernel.u32(kernel.u64(at + offset["real_parent"]) + offset["tgid"]),
            state=_letter(kernel.u32(at + self._state), kernel.u32(at + offset["exit_state"])),
            cpu=kernel.u32(at + self._cpu),
            resident=self._resident(mm) if mm else 0,
            threads=kernel.u32(signal + self._threads) if signal else 0,
            kernel=bool(kernel.u32(at + offset["flags"]) & spec.PF_KTHREAD),
            name=comm.partition(b"\0")[0].decode("utf-8", "replace"),
        )


def _letter(state: int, exit_state: int) -> str:
    if state & spec.IDLE == spec.IDLE:
        return spec.IDLE_LETTER
    return spec.STATE_LETTERS[((state | exit_state) & spec.REPORTED).bit_length()]


def _resident_reader(
    kernel: GuestKernel, address: Callable[[str], int], btf: Btf
) -> Callable[[int], int]:
    """What reads the bytes that are resident of an mm_struct, whose address it is given."""
    stat = "mm_struct.rss_stat"
    if btf.has(f"{stat}.count"):  # until 6.1: struct mm_rss_stat
        counters = btf.offset(f"{stat}.count")

        def plain(mm: int) -> int:
            pages = (_signed(kernel.u64(mm + counters + WORD * kind)) for kind in spec.RESIDENT)
            return max(sum(pages), 0) * PAGE

        return plain

    # From 6.2 on: struct percpu_counter, whose sum is its count and each CPU's share.
    start, size = btf.offset(stat), btf.element(stat)
    count, shares = btf.offset("percpu_counter.count"), btf.offset("percpu_counter.counters")
    cpus = min(kernel.u32(address("nr_cpu_ids")), CPUS_MAX)
    areas = [kernel.u64(address("__per_cpu_offset") + WORD * cpu) for cpu in range(cpus)]

    def per_cpu(mm: int) -> int:
        pages = 0
        for kind in spec.RESIDENT:
            counter = mm + start + size * kind
            pages += _signed(kernel.u64(counter + count))
            share = kernel.u64(counter + shares)
            pages += sum(_signed(kernel.u32(share + area), 32) for area in areas)
        return max(pages, 0) * PAGE

    return per_cpu


def _signed(value: int, bits: int = 64) -> int:
    return value - (value >> bits - 1 << bits)
