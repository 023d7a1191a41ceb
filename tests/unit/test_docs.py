"""What the documents name exists, and their examples are right."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pyvmm import cli
from pyvmm.config import MachineConfig
from tests.documents import DOCUMENTS, ROOT, blocks

PARTS = r"(?:pyvmm|csrc|guests|tests|bench|docs)/[\w./-]*\w"
TO_BE_WRITTEN = "scratch"  # the device that CONTRIBUTING.md shows how to add
BUILT = {"pyvmm/_native", "bench/results"}

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
EXAMPLES = [pytest.param(*block, id=block[0]) for block in blocks("python")]
FOR_KVM = blocks("python kvm") + blocks("python linux")


def source(file: str) -> str:
    return (ROOT / file).read_text()


def command_lines() -> list[list[str]]:
    """The words of every command in the blocks for a shell, without its comment."""
    lines = [
        shlex.split(line, comments=True)
        for _, text in blocks("sh")
        for line in text.replace("\\\n", " ").splitlines()
    ]
    return [words for words in lines if words]


def defines(file: str, name: str) -> bool:
    """Whether a class or function `name` (or the last part of `Class.name`) stands in the file."""
    python, c = rf"\b(?:class|def) {name}\b", rf"^[a-z].*\b{name}\("
    return re.search(f"{python}|{c}", source(file), re.MULTILINE) is not None


@every_document
def test_every_file_that_is_named_exists(document: Path) -> None:
    text = document.read_text()
    named = {
        name
        for name in re.findall(rf"(?<![\w/.-]){PARTS}", text)
        if TO_BE_WRITTEN not in name and name not in BUILT
    }
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", text)
    assert {name for name in named if not (ROOT / name).exists()} == set()
    assert {link for link in links if not (document.parent / link).exists()} == set()


@every_document
def test_every_name_stands_in_the_file_that_it_is_said_to_be_in(document: Path) -> None:
    references = re.findall(rf"`({PARTS}):([\w.]+)`", document.read_text())
    assert [
        f"{file}:{name}"
        for file, name in references
        if not all(defines(file, part) for part in name.split("."))
    ] == []


@every_document
def test_every_make_target_that_is_named_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", source("Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", document.read_text(), re.MULTILINE))
    assert named - targets == set()


@pytest.mark.parametrize(
    "words", [words for words in command_lines() if words[0] == "pyvmm"], ids=" ".join
)
def test_every_command_line_is_one_that_pyvmm_takes(words: list[str]) -> None:
    cli._parser().parse_args(words[1:])


def test_the_readme_has_every_option_of_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli._parser().parse_args(["run", "--help"])
    option = r"(?<![\w-])--?[a-z][a-z-]*"
    known = set(re.findall(rf"^  ({option})", capsys.readouterr().out, re.MULTILINE))
    rows = re.findall(r"^\| (`-.*?`) \| ", source("README.md"), re.MULTILINE)
    assert set(re.findall(option, " ".join(rows))) == known - {"-h"}


def test_the_monitor_page_has_every_command() -> None:
    from pyvmm.monitor.commands import TABLE

    rows = re.findall(r"^\| (`.*?`) \| ", source("docs/monitor.md"), re.MULTILINE)
    named = re.findall(r"`([^`]+)`", " ".join(rows))
    assert [
        name
        for name in TABLE
        if not any(re.match(rf"{re.escape(name)}(?![\w-])", usage) for usage in named)
    ] == []


def test_the_library_page_has_every_field_of_a_machine() -> None:
    rows = re.findall(r"^\| (`.*?`) \| ", source("docs/library.md"), re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert set(MachineConfig.fields) - {"devices"} <= named  # there is no device for it yet


@pytest.mark.parametrize(("where", "code"), EXAMPLES)
def test_an_example_runs(where: str, code: str) -> None:
    exec(compile(code, where, "exec"), {})


def test_examples_for_a_kvm_compile() -> None:
    assert FOR_KVM
    for where, code in FOR_KVM:
        compile(code, where, "exec")
