"""How options and their file become a machine's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm import cli
from pyvmm.config import Linux, MachineConfig
from pyvmm.errors import UsageError


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
