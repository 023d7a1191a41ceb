"""Which CPU a guest sees: pure functions from the CPUID that KVM supports to that of one vCPU.

The model is the host's CPU, with features taken away by name. The topology is one package of N
cores with one thread each; a vCPU's APIC id is its number. Any thread may call all of this.
"""

import functools
import struct
from collections.abc import Iterable

from pyvmm.errors import UsageError
from pyvmm.kvm import cpuid_spec as spec
from pyvmm.typed import TypeAlias
from pyvmm.value import Value


class CpuidEntry(Value):
    """struct kvm_cpuid_entry2 of <asm/kvm.h>: a leaf, its sub-leaf, and the four registers."""

    function: int
    index: int
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int

    @property
    def registers(self) -> tuple[int, int, int, int]:
        """eax, ebx, ecx, edx."""
        return self.eax, self.ebx, self.ecx, self.edx

    def __hash__(self) -> int:
        return hash((self.function, self.index))  # a whole table is hashed for each vCPU


class CpuModel(Value):
    """The host's CPU without the features `masked`; it must have those `required`."""

    masked: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()


# A leaf's four registers, numbered as in spec, and its flags; by function and index.
_Leaves: TypeAlias = dict[tuple[int, int], list[int]]
_FLAGS = 4

_Bits: TypeAlias = dict[str, list[tuple[int, int, int, int]]]  # function, index, register, mask


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


@functools.lru_cache(maxsize=64)
def guest_cpuid(
    supported: tuple[CpuidEntry, ...],
    model: CpuModel,
    cpu: int,
    cpus: int,
    *,
    tsc_deadline: bool,
    brand: str = "",
) -> tuple[CpuidEntry, ...]:
    """The entries for vCPU number `cpu` of `cpus`, from those of KVM_GET_SUPPORTED_CPUID.

    `tsc_deadline` is KVM_CAP_TSC_DEADLINE_TIMER, which KVM does not count as supported CPUID.
    `brand` is the processor's name, at most 47 ASCII characters of it, where KVM gives none.
    Raises UsageError if the model requires a feature that is not there.
    """
    leaves = {(e.function, e.index): [*e.registers, e.flags] for e in supported}
    _set_features(leaves, cpu, cpus, tsc_deadline)
    _set_caches(leaves, cpus)
    _set_topology(leaves, cpu, cpus)
    if _follows_amd(leaves):
        _set_amd_topology(leaves, cpu, cpus)
    if brand:
        _set_brand(leaves, brand)
    if model.masked or model.required:
        bits = _feature_bits()
        _mask(leaves, model.masked, bits)
        _trim_xsave(leaves, bits)
        for name in sorted(model.required):
            if not _has(leaves, name, bits):
                raise UsageError(
                    f"The CPU feature {name!r} must be one that this host's KVM offers"
                )
    return tuple(CpuidEntry(*key, leaf[_FLAGS], *leaf[:_FLAGS]) for key, leaf in leaves.items())


def physical_bits(entries: Iterable[CpuidEntry]) -> int:
    """The width of guest-physical addresses in bits; 36 where no leaf says it."""
    for entry in entries:
        if entry.function == spec.ADDRESS_SIZES:
            return entry.eax & spec.PHYSICAL_BITS or spec.PHYSICAL_BITS_DEFAULT
    return spec.PHYSICAL_BITS_DEFAULT


# Features by name. Nothing here runs for a plain `host`.


@functools.cache
def _feature_bits() -> _Bits:
    """Each feature's name and all of its bits."""
    bits: _Bits = {}
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


def _mask(leaves: _Leaves, names: Iterable[str], bits: _Bits) -> None:
    for name in names:
        for function, index, register, mask in bits[name]:
            if (function, index) in leaves:
                leaves[function, index][register] &= ~mask


def _has(leaves: _Leaves, name: str, bits: _Bits) -> bool:
    """Whether any of the feature's bits is set."""
    return any(
        leaves[function, index][register] & mask
        for function, index, register, mask in bits[name]
        if (function, index) in leaves
    )


def _trim_xsave(leaves: _Leaves, bits: _Bits) -> None:
    """Make leaf 0xD describe no state whose feature is gone. EBX of its sub-leaves 0 and 1, the
    size of what is enabled, is KVM's to keep.
    """
    if not _has(leaves, "xsave", bits):
        _remove(leaves, spec.XSAVE)
        return
    for component, names in spec.XSAVE_COMPONENT_OF.items():
        if not any(_has(leaves, name, bits) for name in names):
            leaves.pop((spec.XSAVE, component), None)
            for index, register in spec.XSAVE_COMPONENTS:
                if (spec.XSAVE, index) in leaves:
                    leaves[spec.XSAVE, index][register] &= ~(1 << component)
    if main := leaves.get((spec.XSAVE, 0)):
        sizes = [
            leaf[spec.EBX] + leaf[spec.EAX]
            for component in spec.XSAVE_COMPONENT_OF
            if main[spec.EAX] & 1 << component and (leaf := leaves.get((spec.XSAVE, component)))
        ]
        main[spec.ECX] = max([spec.XSAVE_LEGACY_SIZE, *sizes])


def _remove(leaves: _Leaves, function: int) -> None:
    """Take away all sub-leaves of a leaf; KVM answers zeros for it."""
    for key in [key for key in leaves if key[0] == function]:
        del leaves[key]


# The features that are the machine's, and the topology.


def _set_features(leaves: _Leaves, cpu: int, cpus: int, tsc_deadline: bool) -> None:
    """What leaf 1 says of this vCPU, and no promise that it has a host CPU of its own."""
    leaf = leaves[spec.FEATURES, 0]
    leaf[spec.EBX] &= spec.EBX_BELOW_COUNTS
    leaf[spec.EBX] |= min(cpus, spec.EBX_LOGICAL_COUNT_MAX) << spec.EBX_LOGICAL_COUNT_SHIFT
    leaf[spec.EBX] |= (cpu & spec.EBX_APIC_ID) << spec.EBX_APIC_ID_SHIFT
    leaf[spec.ECX] |= spec.ECX_HYPERVISOR | spec.ECX_X2APIC
    leaf[spec.ECX] = _with_bit(leaf[spec.ECX], spec.ECX_TSC_DEADLINE, tsc_deadline)
    leaf[spec.EDX] = _with_bit(leaf[spec.EDX], spec.EDX_HTT, cpus > 1)
    if kvm := leaves.get((spec.KVM_FEATURES, 0)):
        kvm[spec.EDX] &= ~spec.HINTS_REALTIME


def _with_bit(value: int, bit: int, on: bool) -> int:
    return value | bit if on else value & ~bit


def _set_caches(leaves: _Leaves, cpus: int) -> None:
    """Caches below level 3 are each core's own, the others the package's."""
    ids = (1 << (cpus - 1).bit_length()) - 1  # the fields count APIC ids, used or not
    for (function, _), leaf in leaves.items():
        if function in (spec.CACHES, spec.AMD_CACHES) and leaf[spec.EAX] & spec.CACHE_TYPE:
            level = leaf[spec.EAX] >> spec.CACHE_LEVEL_SHIFT & spec.CACHE_LEVEL
            leaf[spec.EAX] &= spec.CACHE_BELOW_SHARING
            if level >= spec.SHARED_LEVEL:
                leaf[spec.EAX] |= min(ids, spec.CACHE_SHARING_MAX) << spec.CACHE_SHARING_SHIFT
            if function == spec.CACHES:
                leaf[spec.EAX] |= min(ids, spec.CACHE_CORES_MAX) << spec.CACHE_CORES_SHIFT


def _set_topology(leaves: _Leaves, cpu: int, cpus: int) -> None:
    """Leaves 0xB and 0x1F: a thread a core, `cpus` cores a package, then an invalid level."""
    levels = (
        (spec.LEVEL_SMT, 0, 1),
        (spec.LEVEL_CORE, (cpus - 1).bit_length(), min(cpus, spec.LEVEL_COUNT_MAX)),
        (spec.LEVEL_INVALID, 0, 0),
    )
    for function in (spec.TOPOLOGY, spec.TOPOLOGY_V2):
        _remove(leaves, function)
        if leaves[spec.VENDOR, 0][spec.EAX] >= function:
            for index, (level, shift, count) in enumerate(levels):
                ecx = level << spec.LEVEL_TYPE_SHIFT | index
                leaves[function, index] = [shift, count, ecx, cpu, spec.SIGNIFICANT_INDEX]


def _follows_amd(leaves: _Leaves) -> bool:
    leaf = leaves[spec.VENDOR, 0]
    return struct.pack("<3I", leaf[spec.EBX], leaf[spec.EDX], leaf[spec.ECX]) in spec.AMD_VENDORS


def _set_amd_topology(leaves: _Leaves, cpu: int, cpus: int) -> None:
    """The leaves in which AMD counts cores; on Intel they are reserved."""
    if sizes := leaves.get((spec.ADDRESS_SIZES, 0)):
        sizes[spec.ECX] = min(cpus - 1, spec.CORE_COUNT_MAX)
        sizes[spec.ECX] |= min((cpus - 1).bit_length(), spec.CORE_ID_SIZE) << spec.CORE_ID_SHIFT
    if features := leaves.get((spec.AMD_FEATURES, 0)):
        features[spec.ECX] = _with_bit(features[spec.ECX], spec.ECX_CMP_LEGACY, cpus > 1)
    if topology := leaves.get((spec.AMD_TOPOLOGY, 0)):
        topology[:_FLAGS] = (cpu, cpu & spec.CORE_ID, 0, 0)


def _set_brand(leaves: _Leaves, brand: str) -> None:
    """Leaves 0x80000002 to 4: text that ends with a NUL."""
    text = brand.encode("ascii", "replace")[: spec.BRAND_SIZE - 1].ljust(spec.BRAND_SIZE, b"\0")
    for function, registers in zip(spec.BRAND, struct.iter_unpack("<4I", text), strict=True):
        if leaf := leaves.get((function, 0)):
            leaf[:_FLAGS] = registers
