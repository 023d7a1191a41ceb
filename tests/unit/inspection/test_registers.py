from __future__ import annotations

import pytest

from pyvmm.errors import HostError, UsageError
from pyvmm.inspection import registers_spec as spec
from pyvmm.inspection.registers import TABLE, Registers, find, meaning
from pyvmm.native import ffi

XSAVE_SIZE = 4096


class Vcpu:
    """Keeps state as KVM does: what is read is a copy, what is set replaces it."""

    def __init__(self):
        self.xsave = bytes(XSAVE_SIZE)
        self.msrs = {spec.MSRS["lstar"]: 0xFFFF_FFFF_8180_0000, spec.MSRS["tsc"]: 7}
        kinds = {"regs": "regs", "sregs": "sregs", "debugregs": "debugregs", "xcrs": "xcrs"}
        self._state = {n: ffi.new(f"struct kvm_{kind} *") for n, kind in kinds.items()}
        self._state["xcrs"].nr_xcrs = 1

    def __getattr__(self, name):
        kept = self._state[name]
        copy = ffi.new(ffi.typeof(kept))
        copy[0] = kept[0]
        return copy

    def __setattr__(self, name, value):
        if name in self.__dict__.get("_state", ()):
            self._state[name] = value
        else:
            super().__setattr__(name, value)

    def get_xsave(self, size):
        return self.xsave

    def set_xsave(self, state):
        self.xsave = state

    def get_msrs(self, indices):
        return {index: self.msrs[index] for index in indices if index in self.msrs}

    def set_msrs(self, values):
        self.msrs |= values


@pytest.fixture
def vcpu():
    return Vcpu()


@pytest.fixture
def registers(vcpu):
    return Registers(vcpu, XSAVE_SIZE)


@pytest.mark.parametrize("name", [one.name for one in TABLE.values() if one.group != "msr"])
def test_a_register_keeps_what_is_written_and_no_other_changes(vcpu, name):
    ours = Registers(vcpu, XSAVE_SIZE)
    widest = (1 << TABLE[name].bits) - 1
    ours[name] = widest
    after = Registers(vcpu, XSAVE_SIZE)
    assert after[name] == ours[name] == widest
    shared = {name.replace("ymm", "xmm"), name.replace("xmm", "ymm")}
    others = {one.name: one.get(after) for one in TABLE.values() if one.group != "msr"}
    assert {other for other, value in others.items() if value} <= {name} | shared


def test_xmm_registers_are_where_the_XSAVE_area_has_them(vcpu, registers):
    registers["xmm1"] = 0x1122
    assert vcpu.xsave[176:178] == b"\x22\x11"
    registers["ymm1"] = 0x33 << 128
    assert (vcpu.xsave[176], vcpu.xsave[592]) == (0, 0x33)
    assert vcpu.xsave[512] == 0b110  # SSE and AVX are in use


def test_st_registers_are_80_bits_in_slots_of_16_bytes(vcpu, registers):
    registers["st2"] = 0x3FFF_8000_0000_0000_0000
    assert vcpu.xsave[64:74] == (0x3FFF_8000_0000_0000_0000).to_bytes(10, "little")


def test_names_may_be_in_capitals_and_gdbs(registers):
    registers["RSP"] = 0x7000
    registers["cs"] = 0x10
    registers["eflags"] = 2
    assert (registers["sp"], registers["cs_selector"], registers["rflags"]) == (0x7000, 0x10, 2)


def test_an_unknown_register_suggests_the_nearest(registers):
    with pytest.raises(UsageError, match="no register 'raxx'; did you mean 'rax'"):
        registers["raxx"]
    with pytest.raises(UsageError, match=r"no register '~~~'$"):
        find("~~~")


@pytest.mark.parametrize(("name", "value"), [("rax", 1 << 64), ("cs", 1 << 16), ("rax", -1)])
def test_a_value_that_is_too_large_is_refused(registers, name, value):
    with pytest.raises(UsageError, match="must be a number of"):
        registers[name] = value


def test_msrs_are_read_and_written_by_name(vcpu, registers):
    assert registers["lstar"] == 0xFFFF_FFFF_8180_0000
    registers["tsc"] = 9
    assert vcpu.msrs[0x10] == 9
    assert registers.group("msr") == {"tsc": 9, "lstar": 0xFFFF_FFFF_8180_0000}


def test_an_MSR_that_KVM_refuses_is_said_to_be_missing(registers):
    with pytest.raises(HostError, match=r"does not give the register pat \(0x277\)"):
        registers["pat"]


def test_AVX_registers_are_shown_only_if_the_guest_uses_them(registers):
    assert registers.group("avx") == {}
    registers["xcr0"] = 7
    assert len(registers.group("avx")) == 16


@pytest.mark.parametrize(
    ("cr0", "efer", "rflags", "long", "big", "bits", "mode"),
    [
        (0, 0, 0, 0, 0, 16, "real mode"),
        (1, 0, 0, 0, 0, 16, "16-bit code"),
        (1, 0, 0, 0, 1, 32, "32-bit code"),
        (1, 0, spec.RFLAGS_VM, 0, 1, 16, "virtual 8086"),
        (1, spec.EFER_LMA, 0, 1, 0, 64, "64-bit code"),
        (1, spec.EFER_LMA, 0, 0, 1, 32, "32-bit code"),
    ],
)
def test_the_code_segment_says_how_wide_code_is(vcpu, cr0, efer, rflags, long, big, bits, mode):
    state = Registers(vcpu, XSAVE_SIZE)
    state["cr0"], state["efer"], state["rflags"] = cr0, efer, rflags
    sregs = vcpu.sregs
    sregs.cs.l, sregs.cs.db = long, big
    vcpu.sregs = sregs
    state = Registers(vcpu, XSAVE_SIZE)
    assert (state.code_bits, state.mode) == (bits, mode)


def test_pc_is_the_linear_address_of_the_next_instruction(vcpu, registers):
    registers["cs_base"] = 0xF_0000
    registers["rip"] = 0xFFF0
    assert registers["pc"] == 0xF_FFF0
    registers["cs_base"] = 0xFFFF_0000
    registers["rip"] = 0x1_0010
    assert registers["pc"] == 0x10


def test_flags_are_named():
    assert meaning("rflags", 0x246) == ["PF", "ZF", "IF"]
    assert meaning("rax", 0x246) == []
