"""How options and their file become a machine's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm import cli
from pyvmm.config import Linux, MachineConfig
from pyvmm.errors import UsageError
from pyvmm.peripherals import Balloon, Console, Ports, Rng


def config(*options: str) -> MachineConfig:
    return cli.config_of(cli._parser().parse_args(["run", *options]))


def test_without_options_the_built_in_guest_runs_on_stdio() -> None:
    assert config() == MachineConfig(serial=("stdio",))


def test_every_option_reaches_the_configuration() -> None:
    options = (
        "vmlinuz --initrd a --initrd b --append quiet --memory 1G --cpus 3 --cpu host,-avx2 "
        "--serial none --serial pty --no-reboot --kaslr --entry linux --hugepages --prealloc "
        "--name guest"
    )
    assert config(*options.split()) == MachineConfig(
        boot=Linux("vmlinuz", ["a", "b"], "quiet", True, "linux"),
        memory="1G",
        cpus=3,
        cpu="host,-avx2",
        serial=("none", "pty"),
        no_reboot=True,
        name="guest",
        hugepages=True,
        prealloc=True,
    )


def test_the_file_gives_what_no_option_does(tmp_path: Path) -> None:
    file = tmp_path / "vm.toml"
    file.write_text('kernel = "k"\ncpus = 2\nmemory = "1G"\nserial = "none"\ninitrd = "i"\n')
    assert config("--config", str(file), "--cpus", "4") == MachineConfig(
        boot=Linux("k", "i"), cpus=4, memory="1G", serial=("none",)
    )


def test_devices_are_made_of_their_options() -> None:
    options = "--rng=64K --balloon=256M --console hvc0=pty --console agent=unix:a --console log=pty"
    assert config(*options.split()).devices == (
        Console("hvc0", "pty"),
        Ports(ports={"agent": "unix:a", "log": "pty"}),
        Rng(rate="64K"),
        Balloon(memory="256M"),
    )


def test_a_disk_does_not_replace_other_devices() -> None:
    devices = config(
        "--disk", "a.img", "--disk", "b.img,ro", "--rng", "--console", "hvc0=pty"
    ).devices
    assert [device.name for device in devices] == ["vda", "vdb", "hvc0", "rng"]


def test_an_optional_value_does_not_eat_the_kernel() -> None:
    chosen = config("--rng", "--balloon", "vmlinuz")
    assert chosen.boot == Linux("vmlinuz")
    assert chosen.devices == (Rng(), Balloon())


def test_a_file_has_devices_too(tmp_path: Path) -> None:
    file = tmp_path / "vm.toml"
    file.write_text('rng = true\nballoon = false\nconsole = ["hvc0=pty"]\n')
    assert config("--config", str(file)).devices == (Console("hvc0", "pty"), Rng())


def test_a_console_on_stdio_takes_it_from_the_serial_port() -> None:
    assert config("--console", "hvc0=stdio").serial == ("none",)
    assert config("--console", "hvc0=stdio", "--serial", "pty").serial == ("pty",)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--console hvc0", "must be NAME=KIND"),
        ("--console =pty", "must be NAME=KIND"),
        ("--console hvc0=buffer", "must be one of"),
        ("--console a=pty --console a=pty", "there are two 'a'"),
        ("--rng=fast", "rng must be a number"),
    ],
)
def test_impossible_devices_are_refused(options: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        config(*options.split()).check()


@pytest.mark.parametrize("option", ["--initrd=i", "--append=a", "--kaslr", "--entry=pvh"])
def test_options_of_a_kernel_need_one(option: str) -> None:
    with pytest.raises(UsageError, match="Without a KERNEL"):
        config(option)


def test_a_program_only_line_is_not_for_the_command() -> None:
    with pytest.raises(UsageError, match="not 'buffer'"):
        config("--serial", "buffer")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["doctor", "--help"]])
def test_help_is_no_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 0
    assert "usage: pyvmm" in capsys.readouterr().out
