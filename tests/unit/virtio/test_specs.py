"""The numbers of the specifications' files against the installed headers of Linux."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm.virtio import balloon_spec as balloon
from pyvmm.virtio import console_spec as console
from pyvmm.virtio import net_spec as net
from pyvmm.virtio import virtio_spec as virtio
from pyvmm.virtio import vsock_spec as vsock

HEADERS = (
    *("virtio_config", "virtio_ids", "virtio_ring", "virtio_balloon", "virtio_console"),
    *("virtio_vsock", "vm_sockets"),
    *("virtio_net", "if_ether"),
)

EXPECTED = {
    "VIRTIO_CONFIG_S_ACKNOWLEDGE": virtio.STATUS_ACKNOWLEDGE,
    "VIRTIO_CONFIG_S_DRIVER": virtio.STATUS_DRIVER,
    "VIRTIO_CONFIG_S_DRIVER_OK": virtio.STATUS_DRIVER_OK,
    "VIRTIO_CONFIG_S_FEATURES_OK": virtio.STATUS_FEATURES_OK,
    "VIRTIO_CONFIG_S_NEEDS_RESET": virtio.STATUS_NEEDS_RESET,
    "VIRTIO_CONFIG_S_FAILED": virtio.STATUS_FAILED,
    "1ULL << VIRTIO_RING_F_INDIRECT_DESC": virtio.F_INDIRECT_DESC,
    "1ULL << VIRTIO_RING_F_EVENT_IDX": virtio.F_EVENT_IDX,
    "1ULL << VIRTIO_F_VERSION_1": virtio.F_VERSION_1,
    "1ULL << VIRTIO_F_ACCESS_PLATFORM": virtio.F_ACCESS_PLATFORM,
    "1ULL << VIRTIO_F_RING_PACKED": virtio.F_RING_PACKED,
    "VRING_DESC_F_NEXT": virtio.DESC_F_NEXT,
    "VRING_DESC_F_WRITE": virtio.DESC_F_WRITE,
    "VRING_DESC_F_INDIRECT": virtio.DESC_F_INDIRECT,
    "VRING_AVAIL_F_NO_INTERRUPT": virtio.AVAIL_F_NO_INTERRUPT,
    "VRING_USED_F_NO_NOTIFY": virtio.USED_F_NO_NOTIFY,
    "sizeof(struct vring_desc)": virtio.DESC_SIZE,
    "offsetof(struct vring_avail, ring)": virtio.RING_HEADER_SIZE,
    "sizeof(vring_used_elem_t)": virtio.USED_ELEMENT_SIZE,
    "VRING_AVAIL_ALIGN_SIZE": virtio.AVAIL_ALIGN,
    "VRING_USED_ALIGN_SIZE": virtio.USED_ALIGN,
    "VRING_DESC_ALIGN_SIZE": virtio.DESC_ALIGN,
    "1 << VRING_PACKED_DESC_F_AVAIL": virtio.DESC_F_AVAIL,
    "1 << VRING_PACKED_DESC_F_USED": virtio.DESC_F_USED,
    "VRING_PACKED_EVENT_FLAG_ENABLE": virtio.EVENT_FLAGS_ENABLE,
    "VRING_PACKED_EVENT_FLAG_DISABLE": virtio.EVENT_FLAGS_DISABLE,
    "VRING_PACKED_EVENT_FLAG_DESC": virtio.EVENT_FLAGS_DESC,
    "1 << VRING_PACKED_EVENT_F_WRAP_CTR": virtio.EVENT_WRAP,
    "sizeof(struct vring_packed_desc_event)": virtio.EVENT_SIZE,
    "VIRTIO_ID_NET": virtio.ID_NET,
    "VIRTIO_ID_BLOCK": virtio.ID_BLOCK,
    "VIRTIO_ID_CONSOLE": virtio.ID_CONSOLE,
    "VIRTIO_ID_RNG": virtio.ID_RNG,
    "VIRTIO_ID_BALLOON": virtio.ID_BALLOON,
    "VIRTIO_ID_VSOCK": virtio.ID_VSOCK,
    "VIRTIO_ID_FS": virtio.ID_FS,
    "1 << VIRTIO_CONSOLE_F_SIZE": console.F_SIZE,
    "1 << VIRTIO_CONSOLE_F_MULTIPORT": console.F_MULTIPORT,
    "1 << VIRTIO_CONSOLE_F_EMERG_WRITE": console.F_EMERG_WRITE,
    "sizeof(struct virtio_console_config)": console.CONFIG.size,
    "offsetof(struct virtio_console_config, emerg_wr)": console.EMERG_WRITE,
    "sizeof(struct virtio_console_control)": console.CONTROL.size,
    "VIRTIO_CONSOLE_DEVICE_READY": console.DEVICE_READY,
    "VIRTIO_CONSOLE_PORT_ADD": console.DEVICE_ADD,
    "VIRTIO_CONSOLE_PORT_READY": console.PORT_READY,
    "VIRTIO_CONSOLE_PORT_OPEN": console.PORT_OPEN,
    "VIRTIO_CONSOLE_PORT_NAME": console.PORT_NAME,
    "1 << VIRTIO_BALLOON_F_STATS_VQ": balloon.F_STATS_VQ,
    "1 << VIRTIO_BALLOON_F_DEFLATE_ON_OOM": balloon.F_DEFLATE_ON_OOM,
    "1 << VIRTIO_BALLOON_F_REPORTING": balloon.F_PAGE_REPORTING,
    "1 << VIRTIO_BALLOON_PFN_SHIFT": balloon.PAGE,
    "offsetof(struct virtio_balloon_config, actual)": balloon.ACTUAL,
    "sizeof(struct virtio_balloon_stat)": balloon.STAT.size,
    "VIRTIO_BALLOON_S_NR": len(balloon.STATS_NAMES),
    "VIRTIO_BALLOON_S_MEMFREE": balloon.STATS_NAMES.index("free"),
    "VIRTIO_BALLOON_S_MEMTOT": balloon.STATS_NAMES.index("total"),
    "VIRTIO_BALLOON_S_AVAIL": balloon.STATS_NAMES.index("available"),
    "VIRTIO_BALLOON_S_HTLB_PGFAIL": balloon.STATS_NAMES.index("hugetlb_failures"),
    "1 << VIRTIO_VSOCK_F_SEQPACKET": vsock.F_SEQPACKET,
    "sizeof(struct virtio_vsock_config)": vsock.CONFIG.size,
    "sizeof(struct virtio_vsock_hdr)": vsock.HEADER.size,
    "sizeof(struct virtio_vsock_event)": vsock.EVENT_PACKET.size,
    "VIRTIO_VSOCK_EVENT_TRANSPORT_RESET": vsock.EVENT_TRANSPORT_RESET,
    "VIRTIO_VSOCK_TYPE_STREAM": vsock.TYPE_STREAM,
    **{f"VIRTIO_VSOCK_{name}": vars(vsock)[name] for name in vars(vsock) if name[:3] == "OP_"},
    "VIRTIO_VSOCK_SHUTDOWN_RCV": vsock.SHUTDOWN_RCV,
    "VIRTIO_VSOCK_SHUTDOWN_SEND": vsock.SHUTDOWN_SEND,
    "VMADDR_CID_HOST": vsock.CID_HOST,
    "VMADDR_CID_ANY": vsock.CID_MAX + 1,
    "VMADDR_PORT_ANY": vsock.PORT_MAX + 1,
    "1 << VIRTIO_NET_F_CSUM": net.F_CSUM,
    "1 << VIRTIO_NET_F_GUEST_CSUM": net.F_GUEST_CSUM,
    "1 << VIRTIO_NET_F_CTRL_GUEST_OFFLOADS": net.F_CTRL_GUEST_OFFLOADS,
    "1 << VIRTIO_NET_F_MTU": net.F_MTU,
    "1 << VIRTIO_NET_F_MAC": net.F_MAC,
    "1 << VIRTIO_NET_F_GUEST_TSO4": net.F_GUEST_TSO4,
    "1 << VIRTIO_NET_F_GUEST_TSO6": net.F_GUEST_TSO6,
    "1 << VIRTIO_NET_F_GUEST_ECN": net.F_GUEST_ECN,
    "1 << VIRTIO_NET_F_GUEST_UFO": net.F_GUEST_UFO,
    "1 << VIRTIO_NET_F_HOST_TSO4": net.F_HOST_TSO4,
    "1 << VIRTIO_NET_F_HOST_TSO6": net.F_HOST_TSO6,
    "1 << VIRTIO_NET_F_HOST_ECN": net.F_HOST_ECN,
    "1 << VIRTIO_NET_F_HOST_UFO": net.F_HOST_UFO,
    "1 << VIRTIO_NET_F_MRG_RXBUF": net.F_MRG_RXBUF,
    "1 << VIRTIO_NET_F_STATUS": net.F_STATUS,
    "1 << VIRTIO_NET_F_CTRL_VQ": net.F_CTRL_VQ,
    "1 << VIRTIO_NET_F_CTRL_RX": net.F_CTRL_RX,
    "1 << VIRTIO_NET_F_CTRL_VLAN": net.F_CTRL_VLAN,
    "1 << VIRTIO_NET_F_CTRL_RX_EXTRA": net.F_CTRL_RX_EXTRA,
    "1 << VIRTIO_NET_F_GUEST_ANNOUNCE": net.F_GUEST_ANNOUNCE,
    "1 << VIRTIO_NET_F_MQ": net.F_MQ,
    "1 << VIRTIO_NET_F_CTRL_MAC_ADDR": net.F_CTRL_MAC_ADDR,
    "VIRTIO_NET_S_LINK_UP": net.STATUS_LINK_UP,
    "VIRTIO_NET_S_ANNOUNCE": net.STATUS_ANNOUNCE,
    "VIRTIO_NET_HDR_F_NEEDS_CSUM": net.HDR_F_NEEDS_CSUM,
    "VIRTIO_NET_HDR_GSO_NONE": net.GSO_NONE,
    "VIRTIO_NET_HDR_GSO_TCPV4": net.GSO_TCPV4,
    "VIRTIO_NET_HDR_GSO_UDP": net.GSO_UDP,
    "VIRTIO_NET_HDR_GSO_TCPV6": net.GSO_TCPV6,
    "VIRTIO_NET_HDR_GSO_ECN": net.GSO_ECN,
    "VIRTIO_NET_OK": net.ACK_OK,
    "VIRTIO_NET_ERR": net.ACK_ERR,
    "VIRTIO_NET_CTRL_RX": net.CTRL_RX,
    "VIRTIO_NET_CTRL_RX_PROMISC": net.CTRL_RX_PROMISC,
    "VIRTIO_NET_CTRL_RX_ALLMULTI": net.CTRL_RX_ALLMULTI,
    "VIRTIO_NET_CTRL_RX_ALLUNI": net.CTRL_RX_ALLUNI,
    "VIRTIO_NET_CTRL_RX_NOMULTI": net.CTRL_RX_NOMULTI,
    "VIRTIO_NET_CTRL_RX_NOUNI": net.CTRL_RX_NOUNI,
    "VIRTIO_NET_CTRL_RX_NOBCAST": net.CTRL_RX_NOBCAST,
    "VIRTIO_NET_CTRL_MAC": net.CTRL_MAC,
    "VIRTIO_NET_CTRL_MAC_TABLE_SET": net.CTRL_MAC_TABLE_SET,
    "VIRTIO_NET_CTRL_MAC_ADDR_SET": net.CTRL_MAC_ADDR_SET,
    "VIRTIO_NET_CTRL_VLAN": net.CTRL_VLAN,
    "VIRTIO_NET_CTRL_VLAN_ADD": net.CTRL_VLAN_ADD,
    "VIRTIO_NET_CTRL_VLAN_DEL": net.CTRL_VLAN_DEL,
    "VIRTIO_NET_CTRL_ANNOUNCE": net.CTRL_ANNOUNCE,
    "VIRTIO_NET_CTRL_ANNOUNCE_ACK": net.CTRL_ANNOUNCE_ACK,
    "VIRTIO_NET_CTRL_MQ": net.CTRL_MQ,
    "VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET": net.CTRL_MQ_VQ_PAIRS_SET,
    "VIRTIO_NET_CTRL_GUEST_OFFLOADS": net.CTRL_GUEST_OFFLOADS,
    "VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET": net.CTRL_GUEST_OFFLOADS_SET,
    "VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MAX": net.PAIRS_MAX,
    "offsetof(struct virtio_net_config, speed)": net.CONFIG.size,
    "offsetof(struct virtio_net_config, mtu)": net.CONFIG.size - 2,
    "sizeof(struct virtio_net_hdr_v1)": net.HEADER.size,
    "offsetof(struct virtio_net_hdr_v1, num_buffers)": net.NUM_BUFFERS,
    "sizeof(struct virtio_net_ctrl_hdr)": net.COMMAND.size,
    "sizeof(struct virtio_net_ctrl_mac)": net.ENTRIES.size,
    "ETH_ALEN": net.ADDRESS_SIZE,
    "ETH_HLEN": net.ETHERNET_SIZE,
    "ETH_P_8021Q": net.TYPE_VLAN,
    "ETH_P_IP": net.TYPE_IPV4,
    "ETH_MIN_MTU": net.MTU_MIN,
}


def test_numbers_are_those_of_the_installed_headers(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    includes = "".join(f"#include <linux/{header}.h>\n" for header in HEADERS)
    checks = "\n".join(
        f'_Static_assert(({what}) == {value}ULL, "{what}");' for what, value in EXPECTED.items()
    )
    source = tmp_path / "check.c"
    source.write_text(f"#include <stddef.h>\n{includes}{checks}\n")
    result = subprocess.run(
        [compiler, "-fsyntax-only", str(source)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
