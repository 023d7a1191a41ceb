"""Which CPU a guest sees: pure functions from the CPUID that KVM supports to that of one vCPU.

The model is the host's CPU, with features taken away by name. The topology is one package of N
cores with one thread each; a vCPU's APIC id is its number. Any thread may call all of this.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from pyvmm.errors import UsageError
from pyvmm.kvm import cpuid_spec as spec


class CpuidEntry(NamedTuple):
    """struct kvm_cpuid_entry2 of <asm/kvm.h>: a leaf, its sub-leaf, and the four registers."""

    function: int
    index: int
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int


class CpuModel(NamedTuple):
    """The host's CPU without the features `masked`; it must have those `required`."""

    masked: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()


_Leaves: TypeAlias = dict[tuple[int, int], CpuidEntry]  # by function and index
_Bit: TypeAlias = tuple[int, int, int, int]  # function, index, register, mask

_REGISTERS = CpuidEntry._fields[3:]  # their names, numbered as in spec


def feature_names() -> list[str]:
    """Every feature name that a CPU model may mention, sorted."""
    return sorted(_feature_bits().keys() | spec.ALIASES)


def parse_cpu_model(text: str) -> CpuModel:
    """A CPU model from its description: `host`, then `,-name` or `,+name` for each feature.

    Names are those of /proc/cpuinfo or QEMU, in which `-`, `.` and `_` are alike. What cannot be
    without a masked feature is masked with it. Raises UsageError for another description, an
    unknown name, or a feature that is required but masked.
    """
    base, *changes = text.split(",")
    if base != "host":
        raise UsageError(
            f"The CPU model must be 'host', with ',-FEATURE' or ',+FEATURE' after it, not {text!r}"
        )
    names: dict[str, set[str]] = {"-": set(), "+": set()}
    for change in changes:
        if change[:1] not in names:
            raise UsageError(f"A CPU feature must be '-NAME' or '+NAME', not {change!r}")
        names[change[0]].add(_known_name(change[1:]))
    masked = _with_dependents(names["-"])
    if contradiction := sorted(names["+"] & masked):
        raise UsageError(
            f"The CPU feature {contradiction[0]!r} must not be asked for where it, or one that "
            "it needs, is masked"
        )
    return CpuModel(masked, frozenset(names["+"]))


def guest_cpuid(
    supported: Sequence[CpuidEntry],
    model: CpuModel,
    cpu: int,
    cpus: int,
    *,
    tsc_deadline: bool,
    brand: str = "",
) -> list[CpuidEntry]:
    """The entries for vCPU number `cpu` of `cpus`, from those of KVM_GET_SUPPORTED_CPUID.

    `tsc_deadline` is KVM_CAP_TSC_DEADLINE_TIMER, which KVM does not count as supported CPUID.
    `brand` is the processor's name, at most 47 ASCII characters of it, where KVM gives none.
    Raises UsageError if the model requires a feature that is not there.
    """
    leaves = {(entry.function, entry.index): entry for entry in supported}
    _set_features(leaves, cpu, cpus, tsc_deadline)
    _set_caches(leaves, cpus)
    _set_topology(leaves, cpu, cpus)
    if _follows_amd(leaves):
        _set_amd_topology(leaves, cpu, cpus)
    if brand:
        _set_brand(leaves, brand)
    if model.masked:
        _mask(leaves, model.masked)
        _trim_xsave(leaves)
    for name in sorted(model.required):
        if not _has(leaves, name, _feature_bits()):
            raise UsageError(
                f"The CPU feature {name!r} is not to be had: KVM on this host does not offer it"
            )
    return list(leaves.values())


def physical_bits(entries: Iterable[CpuidEntry]) -> int:
    """The width of guest-physical addresses in bits; 36 where no leaf says it."""
    for entry in entries:
        if entry.function == spec.ADDRESS_SIZES:
            return entry.eax & spec.PHYSICAL_BITS or spec.PHYSICAL_BITS_DEFAULT
    return spec.PHYSICAL_BITS_DEFAULT


# Features by name. Nothing here runs for a plain `host`.


def _feature_bits() -> dict[str, list[_Bit]]:
    """Each feature's name and all of its bits."""
    bits: dict[str, list[_Bit]] = {}
    for (function, index, register), names in spec.FEATURE_BITS.items():
        for bit, name in enumerate(names.split()):
            if name != ".":
                bits.setdefault(name, []).append((function, index, register, 1 << bit))
    return bits


def _known_name(text: str) -> str:
    """The table's name for what the user calls `text`."""
    name = text.replace("-", "_").replace(".", "_").lower()
    name = spec.ALIASES.get(name, name)
    if name not in _feature_bits():
        import difflib

        near = difflib.get_close_matches(name, feature_names(), n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(
            f"There is no CPU feature {text!r}; {hint}the names are {' '.join(feature_names())}"
        )
    return name


def _with_dependents(names: Iterable[str]) -> frozenset[str]:
    """`names` and all that cannot be without them."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += spec.DEPENDENTS.get(name, "").split()
    return frozenset(found)


def _mask(leaves: _Leaves, names: Iterable[str]) -> None:
    table = _feature_bits()
    for name in names:
        for function, index, register, mask in table[name]:
            entry = leaves.get((function, index))
            if entry is not None:
                field = _REGISTERS[register]
                leaves[function, index] = entry._replace(**{field: getattr(entry, field) & ~mask})


def _has(leaves: _Leaves, name: str, table: dict[str, list[_Bit]]) -> bool:
    """Whether any of the feature's bits is set."""
    return any(
        (function, index) in leaves
        and getattr(leaves[function, index], _REGISTERS[register]) & mask
        for function, index, register, mask in table[name]
    )


def _trim_xsave(leaves: _Leaves) -> None:
    """Make leaf 0xD describe no state whose feature is gone. EBX is KVM's: it follows XCR0."""
    table = _feature_bits()
    if not _has(leaves, "xsave", table):
        for key in [key for key in leaves if key[0] == spec.XSAVE]:
            del leaves[key]
        return
    size = spec.XSAVE_LEGACY_SIZE
    gone = 0
    for component, names in spec.XSAVE_COMPONENT_OF.items():
        if not any(_has(leaves, name, table) for name in names):
            leaves.pop((spec.XSAVE, component), None)
            gone |= 1 << component
    main = leaves.get((spec.XSAVE, 0))
    extended = leaves.get((spec.XSAVE, 1))
    if main is None:
        return
    for (function, component), entry in leaves.items():
        if function == spec.XSAVE and component < 32 and main.eax & ~gone & 1 << component:
            if component >= spec.XSAVE_FIRST_COMPONENT:
                size = max(size, entry.ebx + entry.eax)
    leaves[spec.XSAVE, 0] = main._replace(eax=main.eax & ~gone, ecx=size)
    if extended is not None:
        leaves[spec.XSAVE, 1] = extended._replace(ecx=extended.ecx & ~gone)


# The features that are the machine's, and the topology.


def _update(leaves: _Leaves, function: int, index: int = 0, **registers: int) -> None:
    """Set registers of a leaf that is there; one that is not stays away."""
    entry = leaves.get((function, index))
    if entry is not None:
        leaves[function, index] = entry._replace(**registers)


def _set_features(leaves: _Leaves, cpu: int, cpus: int, tsc_deadline: bool) -> None:
    """What leaf 1 says of this vCPU, and no promise that it has a host CPU of its own."""
    entry = leaves[spec.FEATURES, 0]
    count = min(cpus, spec.EBX_LOGICAL_COUNT_MAX)
    deadline = spec.ECX_TSC_DEADLINE if tsc_deadline else 0
    leaves[spec.FEATURES, 0] = entry._replace(
        ebx=(cpu & 0xFF) << spec.EBX_APIC_ID_SHIFT
        | count << spec.EBX_LOGICAL_COUNT_SHIFT
        | entry.ebx & spec.EBX_BELOW_COUNTS,
        ecx=entry.ecx & ~spec.ECX_TSC_DEADLINE
        | spec.ECX_HYPERVISOR
        | spec.ECX_X2APIC
        | deadline,
        edx=entry.edx & ~spec.EDX_HTT | (spec.EDX_HTT if cpus > 1 else 0),
    )
    kvm = leaves.get((spec.KVM_FEATURES, 0))
    if kvm is not None:
        leaves[spec.KVM_FEATURES, 0] = kvm._replace(edx=kvm.edx & ~spec.HINTS_REALTIME)


def _set_caches(leaves: _Leaves, cpus: int) -> None:
    """Caches below level 3 are each core's own, the others the package's."""
    ids = (1 << (cpus - 1).bit_length()) - 1  # both fields count APIC ids, used or not
    for (function, index), entry in leaves.items():
        if function in (spec.CACHES, spec.AMD_CACHES) and entry.eax & spec.CACHE_TYPE:
            level = entry.eax >> spec.CACHE_LEVEL_SHIFT & spec.CACHE_LEVEL
            shared = min(ids, spec.CACHE_SHARING_MAX) if level >= spec.SHARED_LEVEL else 0
            eax = entry.eax & spec.CACHE_BELOW_SHARING | shared << spec.CACHE_SHARING_SHIFT
            if function == spec.CACHES:
                eax |= min(ids, spec.CACHE_CORES_MAX) << spec.CACHE_CORES_SHIFT
            leaves[function, index] = entry._replace(eax=eax)


def _set_topology(leaves: _Leaves, cpu: int, cpus: int) -> None:
    """Leaves 0xB and 0x1F: a thread a core, `cpus` cores a package, then an invalid level."""
    for key in [key for key in leaves if key[0] in (spec.TOPOLOGY, spec.TOPOLOGY_V2)]:
        del leaves[key]
    levels = (
        (spec.LEVEL_SMT, 0, 1),
        (spec.LEVEL_CORE, (cpus - 1).bit_length(), min(cpus, spec.LEVEL_COUNT_MAX)),
        (spec.LEVEL_INVALID, 0, 0),
    )
    for function in (spec.TOPOLOGY, spec.TOPOLOGY_V2):
        if leaves[spec.VENDOR, 0].eax < function:
            return
        for index, (level, shift, count) in enumerate(levels):
            leaves[function, index] = CpuidEntry(
                function=function,
                index=index,
                flags=spec.SIGNIFICANT_INDEX,
                eax=shift,
                ebx=count,
                ecx=level << spec.LEVEL_TYPE_SHIFT | index,
                edx=cpu,
            )


def _follows_amd(leaves: _Leaves) -> bool:
    vendor = leaves[spec.VENDOR, 0]
    return struct.pack("<III", vendor.ebx, vendor.edx, vendor.ecx) in spec.AMD_VENDORS


def _set_amd_topology(leaves: _Leaves, cpu: int, cpus: int) -> None:
    """The leaves in which AMD counts cores; on Intel they are reserved."""
    sizes = leaves.get((spec.ADDRESS_SIZES, 0))
    if sizes is not None:
        id_size = (cpus - 1).bit_length() & spec.CORE_ID_SIZE
        cores = min(cpus - 1, spec.CORE_COUNT_MAX)
        leaves[spec.ADDRESS_SIZES, 0] = sizes._replace(
            ecx=id_size << spec.CORE_ID_SIZE_SHIFT | cores
        )
    features = leaves.get((spec.AMD_FEATURES, 0))
    if features is not None:
        legacy = spec.ECX_CMP_LEGACY if cpus > 1 else 0
        leaves[spec.AMD_FEATURES, 0] = features._replace(
            ecx=features.ecx & ~spec.ECX_CMP_LEGACY | legacy
        )
    _update(leaves, spec.AMD_TOPOLOGY, eax=cpu, ebx=cpu & spec.CORE_ID, ecx=0, edx=0)


def _set_brand(leaves: _Leaves, brand: str) -> None:
    """Leaves 0x80000002 to 4: 48 bytes of text that end with a NUL."""
    text = brand.encode("ascii", "replace")[:47].ljust(48, b"\0")
    for number, function in enumerate(spec.BRAND):
        registers = struct.unpack_from("<4I", text, 16 * number)
        _update(leaves, function, **dict(zip(_REGISTERS, registers, strict=True)))
