"""The configuration space and the control queue of a network device: VIRTIO 1.2 §5.1.4, §5.1.6.5.

They are the same whoever moves the frames: pyvmm, vhost-net or a vhost-user back end.
"""

from __future__ import annotations

from collections.abc import Callable

from pyvmm.typed import Protocol
from pyvmm.virtio import net_spec as spec
from pyvmm.virtio.chain import Chain
from pyvmm.virtio.net_filter import Filter
from pyvmm.virtio.net_frame import consistent
from pyvmm.virtio.virtqueue import QueueError

COMMAND_MAX = 64 << 10  # bytes of a command that are looked at

FEATURES = (
    spec.F_MAC
    | spec.F_STATUS
    | spec.F_CTRL_VQ
    | spec.F_CTRL_RX
    | spec.F_CTRL_RX_EXTRA
    | spec.F_CTRL_VLAN
    | spec.F_CTRL_MAC_ADDR
    | spec.F_GUEST_ANNOUNCE
)


class Owner(Protocol):
    """The device, as its commands concern it. The worker's thread."""

    def set_pairs(self, pairs: int) -> None:
        """Use this many pairs of queues."""

    def set_offloads(self, offloads: int) -> None:
        """The driver takes frames with these GUEST_OFFLOADS."""

    def config_changed(self) -> None:
        """Configuration space is not what it was."""

    def link_changed(self) -> None:
        """The link is up or down now, which configuration space tells."""


class Control:
    """What the driver has set. The worker's thread, but for `config`, which any may call."""

    def __init__(self, owner: Owner, mac: bytes, mtu: int, pairs: int) -> None:
        """`mac` is the address after a reset, `mtu` in bytes, `pairs` the most there may be."""
        self._owner = owner
        self._initial_mac = mac
        self.mtu = mtu
        self.max_pairs = pairs
        self.link_up = True
        self.reset(0)

    @property
    def features(self) -> int:
        """The features that it stands for. An `mtu` of MTU_MAX is none that the driver is told."""
        mtu = spec.F_MTU if self.mtu < spec.MTU_MAX else 0
        return FEATURES | mtu | (spec.F_MQ if self.max_pairs > 1 else 0)

    def reset(self, features: int) -> None:
        """Begin anew, with a driver that has accepted `features`."""
        self._features = features
        self._announce = False
        self.pairs = 1
        self.filter = Filter(self._initial_mac, features)

    @property
    def index(self) -> int | None:
        """The control queue (§5.1.2), if it is in use."""
        if not self._features & spec.F_CTRL_VQ:
            return None
        return 2 * (self.max_pairs if self._features & spec.F_MQ else 1)

    def config(self) -> bytes:
        """The configuration space."""
        status = spec.STATUS_LINK_UP if self.link_up else 0
        status |= spec.STATUS_ANNOUNCE if self._announce else 0
        return spec.CONFIG.pack(self.filter.mac, status, self.max_pairs, self.mtu)

    def set_link(self, up: bool) -> None:
        """The link is up or down; a driver whose link is up again announces itself."""
        if up != self.link_up:
            self.link_up = up
            self._announce = up and bool(self._features & spec.F_GUEST_ANNOUNCE)
            self._owner.link_changed()

    # ---- commands ----

    def answer(self, chain: Chain) -> None:
        """Carry out one command. Raises QueueError if it has no room for an answer."""
        command = chain.read(COMMAND_MAX)
        understood = len(command) >= spec.COMMAND.size and self._carry_out(
            command[0], command[1], command[spec.COMMAND.size :]
        )
        if not chain.write(bytes([spec.ACK_OK if understood else spec.ACK_ERR])):
            raise QueueError("a command must have a byte for its answer (§5.1.6.5)")

    def _carry_out(self, kind: int, command: int, data: bytes) -> bool:
        commands: dict[int, tuple[int, Callable[[int, bytes], bool]]] = {
            spec.CTRL_RX: (spec.F_CTRL_RX, self._set_mode),
            spec.CTRL_MAC: (spec.F_CTRL_VQ, self._set_addresses),
            spec.CTRL_VLAN: (spec.F_CTRL_VLAN, self.filter.set_vlan),
            spec.CTRL_ANNOUNCE: (spec.F_GUEST_ANNOUNCE, self._announced),
            spec.CTRL_MQ: (spec.F_MQ, self._set_pairs),
            spec.CTRL_GUEST_OFFLOADS: (spec.F_CTRL_GUEST_OFFLOADS, self._set_offloads),
        }
        feature, carry_out = commands.get(kind, (0, self._set_mode))
        return bool(self._features & feature) and carry_out(command, data)

    def _set_mode(self, mode: int, data: bytes) -> bool:
        extra = mode > spec.CTRL_RX_ALLMULTI and not self._features & spec.F_CTRL_RX_EXTRA
        return not extra and self.filter.set_mode(mode, data)

    def _set_addresses(self, command: int, data: bytes) -> bool:
        if command == spec.CTRL_MAC_TABLE_SET and self._features & spec.F_CTRL_RX:
            return self.filter.set_tables(data)
        if command != spec.CTRL_MAC_ADDR_SET or not self._features & spec.F_CTRL_MAC_ADDR:
            return False
        if len(data) != spec.ADDRESS_SIZE or data[0] & spec.MULTICAST or not any(data):
            return False
        self.filter.mac = data
        self._owner.config_changed()
        return True

    def _announced(self, command: int, data: bytes) -> bool:
        if command != spec.CTRL_ANNOUNCE_ACK or data or not self._announce:
            return False
        self._announce = False
        self._owner.config_changed()
        return True

    def _set_pairs(self, command: int, data: bytes) -> bool:
        if command != spec.CTRL_MQ_VQ_PAIRS_SET or len(data) != spec.U16.size:
            return False
        (pairs,) = spec.U16.unpack(data)
        if not 1 <= pairs <= self.max_pairs:
            return False
        self.pairs = pairs
        self._owner.set_pairs(pairs)
        return True

    def _set_offloads(self, command: int, data: bytes) -> bool:
        if command != spec.CTRL_GUEST_OFFLOADS_SET or len(data) != spec.U64.size:
            return False
        (offloads,) = spec.U64.unpack(data)
        if offloads & ~(self._features & spec.GUEST_OFFLOADS) or consistent(offloads) != offloads:
            return False
        self._owner.set_offloads(offloads)
        return True
