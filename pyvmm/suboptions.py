"""Options within an option: `--disk PATH,ro,cache=none`. A comma of a value is written twice."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pyvmm.errors import UsageError
from pyvmm.typed import Any

NUMBERS = ("N", "BYTES", "SECONDS")  # forms whose values are whole numbers
DIGITS_MAX = 20


def split(text: str) -> list[str]:
    """The parts between single commas."""
    return [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]


def syntax(forms: Mapping[str, str]) -> str:
    """The options of `forms`, for a message."""
    return "".join(f"[,{key}={form}]" if form else f"[,{key}]" for key, form in forms.items())


def parse(
    what: str, words: Sequence[str], forms: Mapping[str, str], repeated: Collection[str] = ()
) -> dict[str, Any]:
    """The values of `words`, each KEY=VALUE, or KEY alone for what has no form.

    `on|off` is a bool, of NUMBERS an int, any other form a text; those in `repeated` may be given
    several times and are tuples. Raises UsageError, whose subject is `what`.
    """
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if key not in forms:
            raise UsageError(f"{what} has no option {key!r}; there are {', '.join(forms)}")
        if key in values and key not in repeated:
            raise UsageError(f"{what} has the option {key} twice")
        value = _parse(key, forms[key], text if equals else None)
        values[key] = (*values.get(key, ()), value) if key in repeated else value
    return values


def _parse(key: str, form: str, text: str | None) -> object:
    if not form:
        if text is not None:
            raise UsageError(f"{key} must be given without a value, not with {text!r}")
        return True
    if not text:
        raise UsageError(f"{key} must be given as {key}={form}")
    if form == "on|off":
        if text not in ("on", "off"):
            raise UsageError(f"{key} must be on or off, not {text!r}")
        return text == "on"
    if form in NUMBERS and text.isascii() and text.isdigit() and len(text) < DIGITS_MAX:
        return int(text)
    return text
