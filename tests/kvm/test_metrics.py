"""The counters of running machines, and `--metrics`."""

from __future__ import annotations

import socket
from http.client import HTTPConnection
from pathlib import Path

import pytest
from command import PATIENCE, Running, complaint, pyvmm
from prometheus_client.parser import text_string_to_metric_families

from pyvmm import Disk, Machine, Rng
from pyvmm.errors import UsageError
from pyvmm.kvm import Kvm
from pyvmm.kvm.statistics import Statistics
from pyvmm.metrics.counters import Counters, Family

PROMPT = b"> "
CLIENTS_MAX = 16  # of one server


class Client(HTTPConnection):
    """Over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)


def scrape(client: HTTPConnection) -> dict[str, float]:
    """The sum of each family's numbers, by its name."""
    client.request("GET", "/metrics")
    response = client.getresponse()
    assert response.status == 200
    families = list(text_string_to_metric_families(response.read().decode()))
    client.close()
    return {one.name: sum(sample.value for sample in one.samples) for one in families}


def numbers(families: list[Family], name: str) -> dict[tuple[str, ...], float]:
    (samples,) = (family.samples for family in families if family.name == name)
    return {tuple(labels.values()): value for labels, value in samples}


@pytest.fixture
def kvm_counts(kvm: Kvm) -> None:
    if not kvm.capability("BINARY_STATS_FD"):
        pytest.skip("this KVM has no statistics")


def test_a_prometheus_can_scrape_a_running_machine(tmp_path: Path) -> None:
    path = str(tmp_path / "metrics")
    with Running("--memory", "16M", "--rng", "--metrics", f"unix:{path}") as run:
        run.expect(PROMPT)
        assert Path(path).stat().st_mode & 0o777 == 0o600
        first = scrape(Client(path))
        run.write(b"cpus\r")
        run.expect(PROMPT)
        second = scrape(Client(path))
        assert second["pyvmm_exits"] > first["pyvmm_exits"] > 0
        assert second["pyvmm_state"] == second["pyvmm_info"] == 1
        run.write(b"poweroff\r")
        assert run.wait() == 0
    assert not Path(path).exists()


def test_it_can_be_scraped_over_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with Running("--memory", "16M", "--metrics", f"tcp:127.0.0.1:{port}") as run:
        run.expect(PROMPT)
        assert scrape(HTTPConnection("127.0.0.1", port))["pyvmm_vcpus"] == 1


@pytest.mark.parametrize("where", ["9100", "unix:", "tcp:x"])
def test_another_place_is_refused(where: str) -> None:
    done = pyvmm("run", "--metrics", where)
    assert done.returncode == 2
    assert complaint(done).startswith("pyvmm: --metrics must be unix:PATH or tcp:HOST:PORT, not")


def test_clients_that_stall_harm_neither_the_guest_nor_its_end(tmp_path: Path) -> None:
    path = str(tmp_path / "metrics")
    with Running("--memory", "16M", "--metrics", f"unix:{path}") as run:
        run.expect(PROMPT)
        stalled = []
        for _ in range(CLIENTS_MAX - 1):
            client = Client(path)
            client.connect()
            client.sock.sendall(b"GET /metr")
            stalled.append(client)
        assert scrape(Client(path))["pyvmm_vcpus"] == 1
        run.write(b"poweroff\r")
        assert run.wait() == 0
        for client in stalled:
            client.close()


def test_devices_count_what_they_did(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    with Machine(memory="16M", devices=[Disk("vda", str(image)), Rng()]) as vm:
        vm.start(paused=True)
        counters = Counters(vm)
        families = counters.read()
        counters.close()
    assert numbers(families, "device_read_operations") == {("vda",): 0}
    assert numbers(families, "device_read_seconds") == {("vda",): 0}
    totals = {family.name: family.total for family in families}
    assert totals["device_read_bytes"]
    assert not totals["device_in_flight"]


def test_exits_are_counted_by_vcpu_and_kind() -> None:
    with Machine(memory="16M", cpus=2) as vm:
        vm.start()
        vm.serial.expect(PROMPT, PATIENCE)
        counters = Counters(vm)
        families = counters.read()
        counters.close()
        exits = numbers(families, "exits")
        assert exits["0", "pio_write"] > 0
        assert exits["1", "pio_write"] == 0
        assert numbers(families, "exits_answered")["0", "pio_write"] <= exits["0", "pio_write"]
        assert set(numbers(families, "vcpu_seconds")) == {
            (cpu, mode) for cpu in "01" for mode in ("guest", "user", "system")
        }


def test_the_state_is_one_of_them() -> None:
    with Machine(memory="16M") as vm:
        vm.start()
        counters = Counters(vm)
        vm.pause()
        assert numbers(counters.read(), "state") == {
            ("running",): 0, ("paused",): 1, ("ended",): 0
        }  # fmt: skip
        vm.resume()
        assert vm.state == "running"
        assert numbers(counters.read(), "state")["running",] == 1
        counters.close()


def test_a_closed_machine_has_no_counters() -> None:
    vm = Machine(memory="16M")
    counters = Counters(vm)
    with pytest.raises(UsageError, match="not open"):
        counters.read()
    counters.close()


def test_kvms_own_counts_grow(kvm_counts: None) -> None:
    with Machine(memory="16M") as vm:
        vm.start(paused=True)
        with Statistics(vm.vcpus[0]) as statistics:
            before = {one.name: one.value for one in statistics.read()}
            vm.resume()
            vm.serial.expect(PROMPT, PATIENCE)
            after = {one.name: one.value for one in statistics.read()}
    assert after["exits"] > before["exits"] >= 0
