"""What is declared of libslirp is what its header says, as a compiler reads it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm.backends import slirp_spec as spec
from pyvmm.backends._libslirp import ffi

FLAGS = ["-I/usr/include/slirp"]

pytestmark = [
    pytest.mark.skipif(
        not Path("/usr/include/slirp/libslirp.h").exists(),
        reason="libslirp's header is not installed (libslirp-dev)",
    ),
    pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed"),
]


def compiled(tmp_path: Path, expressions: list[str]) -> list[int]:
    """The values of constant expressions."""
    source = tmp_path / "values.c"
    lines = "".join(f'printf("%zu\\n", (size_t)({text}));' for text in expressions)
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <libslirp.h>\n"
        f"int main(void) {{ {lines} }}"
    )
    program = tmp_path / "values"
    subprocess.run(["gcc", *FLAGS, "-o", program, source], check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return [int(line) for line in printed.split()]


@pytest.mark.parametrize("structure", ["SlirpConfig", "SlirpCb"])
def test_every_field_is_where_the_header_has_it(tmp_path: Path, structure: str) -> None:
    fields = dict(ffi.typeof(structure).fields)
    expressions = [f"offsetof({structure}, {name})" for name in fields]
    expressions += [f"sizeof((({structure} *)0)->{name})" for name in fields]
    assert compiled(tmp_path, expressions) == [
        *(field.offset for field in fields.values()),
        *(ffi.sizeof(field.type) for field in fields.values()),
    ]


def test_the_facts_are_the_headers(tmp_path: Path) -> None:
    names = ["SLIRP_POLL_OUT", "SLIRP_POLL_PRI", "SLIRP_POLL_HUP", "SLIRP_CONFIG_VERSION_MIN"]
    names += ["SLIRP_HOSTFWD_UDP", "SLIRP_HOSTFWD_V6ONLY"]
    facts = [spec.POLL_OUT, spec.POLL_PRI, (spec.POLL_ALL + 1) >> 1, spec.CONFIG_VERSION]
    facts += [spec.FORWARD_UDP, spec.FORWARD_IPV6_ONLY]
    names += ["AF_INET", "AF_INET6", "sizeof(struct sockaddr_in)", "sizeof(struct sockaddr_in6)"]
    facts += [spec.AF_INET, spec.AF_INET6, spec.SOCKADDR_IN.size, spec.SOCKADDR_IN6.size]
    assert compiled(tmp_path, names) == facts
