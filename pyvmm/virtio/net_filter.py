"""Which frames a network device's driver wants to receive: VIRTIO 1.2 §5.1.6.5.1 to §5.1.6.5.3."""

from __future__ import annotations

from collections.abc import Collection

from pyvmm.virtio import net_spec as spec

_Table = Collection[bytes] | None  # None: too many to be told apart, so all


class Filter:
    """Receive modes, address tables and VLANs, as the control queue sets them.

    Until the driver says anything, every frame passes. Those with a VLAN's tag pass if `vlans` is
    None, or their VLAN is in it.
    """

    def __init__(self, mac: bytes, features: int) -> None:
        """`mac` is the device's address, `features` those that the driver has accepted."""
        self.mac = mac
        self.modes = dict.fromkeys(range(spec.CTRL_RX_NOBCAST + 1), False)
        self.modes[spec.CTRL_RX_PROMISC] = True
        self.unicast: _Table = frozenset()
        self.multicast: _Table = frozenset()
        self.vlans: set[int] | None = set() if features & spec.F_CTRL_VLAN else None

    def passes(self, frame: bytes | bytearray | memoryview) -> bool:
        """Whether a frame, of which at least the Ethernet header is there, is for the driver."""
        if self.vlans is not None and len(frame) >= spec.ETHERNET_SIZE + spec.TAG_SIZE:
            kind, tag = frame[spec.TYPE_OFFSET : spec.TYPE_OFFSET + 2], frame[14:16]
            if int.from_bytes(kind, "big") == spec.TYPE_VLAN:
                vlan = int.from_bytes(tag, "big") & spec.VLAN_MASK
                if vlan not in self.vlans:
                    return False
        modes = self.modes
        if modes[spec.CTRL_RX_PROMISC]:
            return True
        to = bytes(frame[: spec.ADDRESS_SIZE])
        if to == spec.BROADCAST:
            return not modes[spec.CTRL_RX_NOBCAST]
        if to[0] & spec.MULTICAST:
            listed = self.multicast is None or to in self.multicast
            wanted = modes[spec.CTRL_RX_ALLMULTI] or listed
            return wanted and not modes[spec.CTRL_RX_NOMULTI]
        listed = self.unicast is None or to in self.unicast or to == self.mac
        return (modes[spec.CTRL_RX_ALLUNI] or listed) and not modes[spec.CTRL_RX_NOUNI]

    # ---- commands: each says whether its data makes sense, and does nothing if it does not ----

    def set_mode(self, mode: int, data: bytes) -> bool:
        """Switch one of the CTRL_RX_ modes: 0 or 1."""
        if mode not in self.modes or len(data) != 1 or data[0] > 1:
            return False
        self.modes[mode] = bool(data[0])
        return True

    def set_tables(self, data: bytes) -> bool:
        """Replace the table of unicast addresses, then that of multicast ones."""
        tables: list[_Table] = []
        for _ in range(2):
            if len(data) < spec.ENTRIES.size:
                return False
            (count,) = spec.ENTRIES.unpack_from(data)
            end = spec.ENTRIES.size + count * spec.ADDRESS_SIZE
            addresses, rest = data[spec.ENTRIES.size : end], data[end:]
            if len(addresses) < count * spec.ADDRESS_SIZE:
                return False
            table = range(0, len(addresses), spec.ADDRESS_SIZE)
            few = frozenset(addresses[at : at + spec.ADDRESS_SIZE] for at in table)
            tables.append(few if count <= spec.TABLE_MAX else None)
            data = rest
        if data:
            return False
        self.unicast, self.multicast = tables
        return True

    def set_vlan(self, command: int, data: bytes) -> bool:
        """Add or remove a VLAN."""
        if len(data) != spec.U16.size or self.vlans is None:
            return False
        (vlan,) = spec.U16.unpack(data)
        if vlan >= spec.VLANS or command not in (spec.CTRL_VLAN_ADD, spec.CTRL_VLAN_DEL):
            return False
        if command == spec.CTRL_VLAN_ADD:
            self.vlans.add(vlan)
        else:
            self.vlans.discard(vlan)
        return True
