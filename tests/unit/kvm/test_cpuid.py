"""The CPUID of each vCPU, on an Intel and an AMD host."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from cpuid_hosts import AMD, INTEL

from pyvmm.errors import UsageError
from pyvmm.kvm import cpuid_spec as spec
from pyvmm.kvm.cpuid import (
    CpuidEntry,
    CpuModel,
    feature_names,
    guest_cpuid,
    parse_cpu_model,
    physical_bits,
)

HOSTS = pytest.mark.parametrize("host", [INTEL, AMD], ids=["Intel", "AMD"])
HOST = CpuModel()
# Debian keeps them in linux-headers-*-common.
KERNEL_HEADERS = sorted(Path("/usr/src").glob("linux-headers-*/arch/x86/include/asm/cpufeatures.h"))

Leaves = dict[tuple[int, int], CpuidEntry]


def leaves(
    host: list[CpuidEntry],
    cpu: int = 0,
    cpus: int = 1,
    model: str = "host",
    tsc_deadline: bool = True,
    brand: str = "",
) -> Leaves:
    """One vCPU's entries, by (function, index), each there once."""
    entries = guest_cpuid(
        tuple(host), parse_cpu_model(model), cpu, cpus, tsc_deadline=tsc_deadline, brand=brand
    )
    found = {(entry.function, entry.index): entry for entry in entries}
    assert len(found) == len(entries)
    return found


def features(found: Leaves) -> set[str]:
    """The names of all features that are set."""
    return {
        name
        for (function, index, register), names in spec.FEATURE_BITS.items()
        if (function, index) in found
        for bit, name in enumerate(names.split())
        if name != "." and found[function, index].registers[register] >> bit & 1
    }


@HOSTS
def test_leaf_1_tells_each_cpu_its_apic_id_and_how_many_there_are(host: list[CpuidEntry]) -> None:
    for cpu in range(4):
        leaf = leaves(host, cpu, 4)[1, 0]
        assert leaf.ebx >> 24 == cpu
        assert leaf.ebx >> 16 & 0xFF == 4
        assert leaf.ebx & 0xFFFF == 0x0800  # the CLFLUSH line size is the host's
        assert leaf.edx >> 28 & 1


@HOSTS
def test_one_cpu_is_not_multi_threaded(host: list[CpuidEntry]) -> None:
    leaf = leaves(host, 0, 1)[1, 0]
    assert not leaf.edx >> 28 & 1
    assert leaf.ebx >> 16 & 0xFF == 1


@HOSTS
def test_the_hypervisor_and_x2apic_bits_are_set(host: list[CpuidEntry]) -> None:
    bare = [e.replace(ecx=0) if e.function == 1 else e for e in host]
    assert {"hypervisor", "x2apic"} <= features(leaves(bare))


@HOSTS
@pytest.mark.parametrize("capability", [True, False])
def test_the_tsc_deadline_bit_follows_the_capability(
    host: list[CpuidEntry], capability: bool
) -> None:
    found = features(leaves(host, tsc_deadline=capability))
    assert ("tsc_deadline_timer" in found) == capability


@HOSTS
@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 255, 256, 1000])
def test_the_topology_leaf_puts_every_cpu_into_a_core_of_one_package(
    host: list[CpuidEntry], cpus: int
) -> None:
    places = set()
    for cpu in {0, 1 % cpus, cpus // 2, cpus - 1}:
        found = leaves(host, cpu, cpus)
        smt, core, end = (found[0xB, index] for index in range(3))
        assert [entry.ecx for entry in (smt, core, end)] == [0x100, 0x201, 0x002]
        assert [entry.edx for entry in (smt, core, end)] == [cpu] * 3
        assert [entry.ebx for entry in (smt, core, end)] == [1, cpus, 0]
        assert smt.eax == 0
        assert cpu >> core.eax == 0
        places.add(cpu >> smt.eax)
    assert len(places) == len({0, 1 % cpus, cpus // 2, cpus - 1})


def test_the_second_topology_leaf_is_there_only_where_leaf_0_reaches_it() -> None:
    newer = [e.replace(eax=0x20) if e.function == 0 else e for e in INTEL]
    assert (0x1F, 0) not in leaves(INTEL, 1, 4)
    found = leaves(newer, 1, 4)
    for index in range(3):
        assert found[0x1F, index].registers == found[0xB, index].registers


@pytest.mark.parametrize(("host", "function"), [(INTEL, 4), (AMD, 0x8000_001D)])
@pytest.mark.parametrize(("cpus", "ids"), [(1, 1), (2, 2), (3, 4), (4, 4)])
def test_only_the_last_level_cache_is_shared(
    host: list[CpuidEntry], function: int, cpus: int, ids: int
) -> None:
    found = leaves(host, 0, cpus)
    sharing = [(found[function, index].eax >> 14 & 0xFFF) + 1 for index in range(4)]
    assert sharing == [1, 1, 1, ids]
    assert [found[function, index].eax & 0xFF for index in range(4)] == [0x21, 0x22, 0x43, 0x63]
    assert found[function, 4].eax == 0


def test_intel_counts_cores_in_the_cache_leaf() -> None:
    assert {leaves(INTEL, 0, 4)[4, index].eax >> 26 for index in range(4)} == {3}
    assert {leaves(INTEL, 0, 255)[4, index].eax >> 26 for index in range(4)} == {63}


def test_amd_counts_cores_in_its_own_leaves() -> None:
    found = leaves(AMD, 2, 3)
    assert found[0x8000_0008, 0].ecx == 2 << 12 | 2
    assert found[0x8000_001E, 0].registers == (2, 2, 0, 0)
    assert "cmp_legacy" in features(found)
    assert "cmp_legacy" not in features(leaves(AMD, 0, 1))


def test_amd_fields_stay_reserved_on_intel() -> None:
    found = leaves(INTEL, 2, 3)
    assert found[0x8000_0008, 0].ecx == 0
    assert "cmp_legacy" not in features(found)


@HOSTS
def test_kvm_leaves_stay_but_nothing_promises_host_cpus(host: list[CpuidEntry]) -> None:
    found = leaves(host)
    given = {(entry.function, entry.index): entry for entry in host}
    assert found[0x4000_0000, 0] == given[0x4000_0000, 0]
    assert found[0x4000_0001, 0] == given[0x4000_0001, 0].replace(edx=0)


@HOSTS
def test_a_plain_host_keeps_all_of_its_features(host: list[CpuidEntry]) -> None:
    given = features({(entry.function, entry.index): entry for entry in host})
    assert given - {"ht", "cmp_legacy"} <= features(leaves(host))


@HOSTS
def test_the_given_entries_are_left_alone(host: list[CpuidEntry]) -> None:
    before = list(host)
    leaves(host, 3, 4, "host,-avx")
    assert host == before


def test_the_brand_ends_with_a_nul_within_its_48_bytes() -> None:
    found = leaves(INTEL, brand="A CPU with a name that is much longer than there is room for")
    text = b"".join(
        register.to_bytes(4, "little")
        for function in (0x8000_0002, 0x8000_0003, 0x8000_0004)
        for register in found[function, 0].registers
    )
    assert text == b"A CPU with a name that is much longer than ther\0"


def test_physical_bits_come_from_the_address_size_leaf() -> None:
    assert physical_bits(INTEL) == 46
    assert physical_bits(AMD) == 48
    assert physical_bits([]) == 36


# Masks.


@HOSTS
def test_a_masked_feature_is_gone_and_no_other(host: list[CpuidEntry]) -> None:
    assert features(leaves(host)) - features(leaves(host, model="host,-aes")) == {"aes"}


def test_what_cannot_be_without_a_masked_feature_goes_with_it() -> None:
    gone = features(leaves(INTEL)) - features(leaves(INTEL, model="host,-avx2"))
    assert gone == {"avx2", *(name for name in features(leaves(INTEL)) if "avx512" in name)}


def test_a_feature_that_amd_shows_twice_is_masked_twice() -> None:
    found = leaves(AMD, model="host,-mmx")
    assert not (found[1, 0].edx | found[0x8000_0001, 0].edx) >> 23 & 1


def test_kvmclock_is_masked_in_both_of_its_forms() -> None:
    assert leaves(AMD, model="host,-kvmclock")[0x4000_0001, 0].eax & 0b1001 == 0


@HOSTS
@pytest.mark.parametrize("name", ["hypervisor", "x2apic", "tsc-deadline"])
def test_what_the_machine_sets_can_be_masked_too(host: list[CpuidEntry], name: str) -> None:
    name_in_table = {"tsc-deadline": "tsc_deadline_timer"}.get(name, name)
    assert name_in_table not in features(leaves(host, model=f"host,-{name}"))


@pytest.mark.parametrize(
    ("host", "mask", "components", "size"),
    [
        (INTEL, "avx512f", 0x21F, 0xA88),
        (INTEL, "avx512f,-pku", 0x1F, 0x440),
        (INTEL, "avx", 0x21B, 0xA88),
        (INTEL, "avx,-pku,-mpx", 0x003, 576),
        (AMD, "pku", 0x007, 0x340),
    ],
)
def test_xsave_describes_only_state_that_is_left(
    host: list[CpuidEntry], mask: str, components: int, size: int
) -> None:
    found = leaves(host, model=f"host,-{mask}")
    assert found[0xD, 0].eax == components
    assert found[0xD, 0].ecx == size
    described = {index for function, index in found if function == 0xD and 2 <= index <= 9}
    assert described == {bit for bit in range(2, 10) if components >> bit & 1}


def test_xsave_supervisor_state_goes_with_its_features() -> None:
    found = leaves(AMD, model="host,-shstk,-ibt")
    assert found[0xD, 1].ecx == 0
    assert (0xD, 11) not in found
    assert (0xD, 12) not in found
    assert leaves(AMD, model="host,-ibt,-aes")[0xD, 1].ecx == 0x1800


def test_supervisor_state_takes_no_room_among_user_state() -> None:
    lbr_state = CpuidEntry(0xD, 15, 1, 0x328, 0, 1, 0)
    lbr_feature = CpuidEntry(0x7, 0, 1, 0, 0, 0, 1 << 19)
    host = [e.replace(ecx=1 << 15) if (e.function, e.index) == (0xD, 1) else e for e in AMD]
    host = [e for e in host if e.function != 7] + [lbr_feature, lbr_state]
    assert leaves(host, model="host,-avx,-pku")[0xD, 0].ecx == 576


@HOSTS
def test_without_xsave_nothing_of_it_is_left(host: list[CpuidEntry]) -> None:
    found = leaves(host, model="host,-xsave")
    assert 0xD not in {function for function, _ in found}
    assert not features(found) & {"avx", "avx2", "avx512f", "fma", "pku", "xsaves"}


# The description of a model.


def test_names_of_qemu_and_of_proc_cpuinfo_are_taken() -> None:
    text = "host,-sse4.1,-avx512-vnni,-avx512_bitalg,-sse3,-lzcnt,-AES"
    expected = {"sse4_1", "avx512_vnni", "avx512_bitalg", "pni", "abm", "aes"}
    assert parse_cpu_model(text).masked == expected


def test_an_unknown_name_is_answered_with_the_nearest_and_all() -> None:
    with pytest.raises(UsageError) as caught:
        parse_cpu_model("host,-avx515f")
    message = str(caught.value)
    assert "'avx515f'; did you mean avx512f" in message
    assert message.endswith(" ".join(feature_names()))


def test_a_name_that_is_like_no_other_is_answered_with_all() -> None:
    with pytest.raises(UsageError, match="'qqqqq'; the names are 3dnow "):
        parse_cpu_model("host,+qqqqq")


@pytest.mark.parametrize("text", ["", "qemu64", "Host", "-avx", "max,-avx"])
def test_a_model_other_than_host_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="must be 'host'"):
        parse_cpu_model(text)


@pytest.mark.parametrize("text", ["host,", "host,avx", "host,-avx,,", "host, -avx", "host,=avx"])
def test_a_change_without_a_sign_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="must be '-NAME' or '\\+NAME'"):
        parse_cpu_model(text)


def test_a_required_feature_that_the_host_lacks_is_refused() -> None:
    assert "avx512f" in features(leaves(INTEL, model="host,+avx512f"))
    with pytest.raises(UsageError, match="'avx512f' must be one that this host's KVM offers"):
        leaves(AMD, model="host,+avx512f")


@pytest.mark.parametrize("text", ["host,+avx2,-avx2", "host,+avx2,-xsave"])
def test_a_feature_both_required_and_masked_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="'avx2' must not be asked for"):
        parse_cpu_model(text)


# The tables.


def test_a_register_has_at_most_32_bits_and_dependents_are_features() -> None:
    assert all(len(names.split()) <= 32 for names in spec.FEATURE_BITS.values())
    known = {name for names in spec.FEATURE_BITS.values() for name in names.split()}
    for name, dependents in spec.DEPENDENTS.items():
        assert {name, *dependents.split()} <= known
    assert set(spec.ALIASES.values()) <= known
    assert not set(spec.ALIASES) & known
    assert {name for names in spec.XSAVE_COMPONENT_OF.values() for name in names} <= known


# Linux's words of feature bits that are CPUID registers.
LINUX_WORDS = {
    0: (0x1, 0, spec.EDX),
    1: (0x8000_0001, 0, spec.EDX),
    4: (0x1, 0, spec.ECX),
    6: (0x8000_0001, 0, spec.ECX),
    9: (0x7, 0, spec.EBX),
    10: (0xD, 1, spec.EAX),
    12: (0x7, 1, spec.EAX),
    13: (0x8000_0008, 0, spec.EBX),
    14: (0x6, 0, spec.EAX),
    15: (0x8000_000A, 0, spec.EDX),
    16: (0x7, 0, spec.ECX),
    17: (0x8000_0007, 0, spec.EBX),
    18: (0x7, 0, spec.EDX),
}


@pytest.mark.skipif(not KERNEL_HEADERS, reason="the kernel's headers are not in /usr/src")
def test_names_and_bits_are_those_of_the_kernel() -> None:
    define = r"^#define X86_FEATURE_(\w+)\s+\(\s*(\d+)\*32\s*\+\s*(\d+)\)\s*/\* (\"\w*\")?"
    text = KERNEL_HEADERS[-1].read_text()
    hides_by_default = '"fpu"' in text  # since Linux 6.11 only quoted names are shown
    compared = 0
    for macro, word, bit, quoted in re.findall(define, text, re.MULTILINE):
        name = quoted.strip('"') if quoted else "" if hides_by_default else macro.lower()
        if name and int(word) in LINUX_WORDS:
            names = spec.FEATURE_BITS[LINUX_WORDS[int(word)]].split()
            assert names[int(bit)] == name
            compared += 1
    assert compared > 200


def test_kvm_features_have_the_bits_of_the_header() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/kvm_para.h").read_text()
    names = spec.FEATURE_BITS[spec.KVM_FEATURES, 0, spec.EAX].split()
    expected = {
        "CLOCKSOURCE": "kvmclock",
        "CLOCKSOURCE2": "kvmclock",
        "NOP_IO_DELAY": "kvm_nopiodelay",
        "ASYNC_PF": "kvm_asyncpf",
        "STEAL_TIME": "kvm_steal_time",
        "PV_EOI": "kvm_pv_eoi",
        "PV_UNHALT": "kvm_pv_unhalt",
        "PV_TLB_FLUSH": "kvm_pv_tlb_flush",
        "ASYNC_PF_VMEXIT": "kvm_asyncpf_vmexit",
        "PV_SEND_IPI": "kvm_pv_ipi",
        "POLL_CONTROL": "kvm_poll_control",
        "PV_SCHED_YIELD": "kvm_pv_sched_yield",
        "ASYNC_PF_INT": "kvm_asyncpf_int",
        "MSI_EXT_DEST_ID": "kvm_msi_ext_dest_id",
        "CLOCKSOURCE_STABLE_BIT": "kvmclock_stable_bit",
    }
    bits = dict(re.findall(r"#define KVM_FEATURE_(\w+)\s+(\d+)", header))
    for macro, name in expected.items():
        assert names[int(bits[macro])] == name


def test_each_xsave_component_lies_after_the_one_before() -> None:
    """The recorded hosts are sound: what the size is computed from does not overlap."""
    for host in (INTEL, AMD):
        areas = [(e.ebx, e.eax) for e in host if e.function == 0xD and e.index >= 2 and e.ebx]
        assert all(offset + size <= after for (offset, size), (after, _) in pairwise(areas))
