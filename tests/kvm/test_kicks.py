"""No kick is ever lost: neither between two runs nor inside one."""

from __future__ import annotations

import threading

from conftest import EMULATED_CPU, TIMEOUT, Bare

from pyvmm.kvm import exits

PAUSES = 2_000 if EMULATED_CPU else 20_000
KICKS_AT_ONCE = 50  # a million in all, which meet the guest at every point of its run


def test_every_one_of_a_million_kicks_is_seen(bare: Bare) -> None:
    """In batches: what is wanted is stored, kicked for, and must be seen before the next."""
    bare.load("ebfe")  # jmp $
    vcpu = bare.vcpu
    wanted = seen = 0
    answered = threading.Semaphore(0)
    strange: list[exits.Exit] = []

    def body() -> None:
        nonlocal seen
        vcpu.enter_thread()
        while wanted >= 0:
            exit = vcpu.run()
            if exit != exits.Interrupted():
                strange.append(exit)
                break
            if seen != wanted:
                seen = wanted
                answered.release()
        vcpu.leave_thread()

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    for wanted in range(1, PAUSES + 1):
        for _ in range(KICKS_AT_ONCE):
            vcpu.kick()
        assert answered.acquire(timeout=TIMEOUT), f"Kick {wanted} was lost"
    wanted = -1
    vcpu.kick()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert not strange
    assert vcpu.exit_counts()["interrupted"] >= PAUSES
