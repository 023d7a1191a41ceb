"""Networks: what they are and do, and their cables."""

from __future__ import annotations

import os

from pyvmm.monitor.command import command
from pyvmm.monitor.device_kinds import NetDevice, UpDown
from pyvmm.monitor.result import Cell, Result, Sections, Table
from pyvmm.monitor.session import Session
from pyvmm.net_config import Network
from pyvmm.virtio.device import VirtioDevice
from pyvmm.virtio.net import Net
from pyvmm.virtio.statistics import NetStatistics
from pyvmm.virtio.vhost_user_net import VhostUserNet


@command("info network")
def info_network(session: Session) -> Result:
    """Show the network devices, and how many frames and bytes they have moved.

    `rx` is to the guest, `tx` from it. Nobody counts what the host's kernel (vhost-net) or another
    process moves.
    """
    machine = session.machine
    configs = {one.name: one for one in machine.config.devices if isinstance(one, Network)}
    nets = [one for one in machine.board.virtio.values() if isinstance(one, (Net, VhostUserNet))]
    columns = ("device", "kind", "host end", "MAC", "link", "pairs", "served by")
    rows = [_row(net, configs.get(net.name)) for net in nets]
    counted = ("device", *NetStatistics.fields)
    counts = [row for net in nets for row in _counts(net)]
    return Sections({"Networks": Table(columns, rows), "Frames": Table(counted, counts)})


def _row(net: Net | VhostUserNet, config: Network | None) -> list[Cell]:
    control = net.control
    end = os.fspath(getattr(config, "path", "")) or getattr(net.link, "name", "")
    return [
        net.name,
        config.kind if config else None,
        end,
        control.filter.mac.hex(":"),
        "up" if control.link_up else "down",
        f"{control.pairs} of {control.max_pairs}",
        net.data_path,
    ]


def _counts(net: VirtioDevice) -> list[list[Cell]]:
    done = net.statistics()
    if done is None:
        return [[net.name, *["not counted"] * len(NetStatistics.fields)]]
    return [[net.name, *done.asdict().values()]]


@command("link", examples=["link eth0 down"])
def link(session: Session, device: NetDevice, state: UpDown) -> None:
    """Plug the cable of a network device in, or pull it."""
    device.set_link(state == "up")
