"""Results as formatted text: the same text, and nothing that steers a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyvmm.monitor.render import NAME, TITLE, render
from pyvmm.monitor.result import Fields, Hex, Live, Result, Sections, Table, Text

CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.builds(Hex, st.integers(0)), st.text()
)
LEAVES = st.one_of(
    st.builds(Text, st.text()),
    st.builds(Fields, st.dictionaries(st.text(), CELLS, max_size=4)),
    st.integers(1, 4).flatmap(
        lambda width: st.builds(
            Table,
            st.lists(st.text(), min_size=width, max_size=width),
            st.lists(st.lists(CELLS, min_size=width, max_size=width), max_size=4),
        )
    ),
)
RESULTS = st.recursive(
    LEAVES,
    lambda inner: st.builds(Sections, st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=5,
)


def text_of(result: Result) -> str:
    return "".join(text for _, text in render(result))


class Own(Result):
    """What a command shows in its own way."""

    number: int

    def __str__(self) -> str:
        return f"number {self.number}"


@given(RESULTS)
def test_no_result_can_steer_the_terminal(result: Result) -> None:
    assert all(c.isprintable() or c == "\n" for c in text_of(result))


def test_rendering_adds_styles_to_the_same_text() -> None:
    result = Sections(
        {
            "First": Fields({"a": 1, "long": Hex(255), "none": None, "yes": True}),
            "Second": Table(("name", "count"), [("x", 10), ("yy", 5)]),
            "Third": Text("one\ntwo"),
            "Fourth": Own(7),
        }
    )
    assert text_of(result) == str(result)
    assert text_of(Live(1.0, lambda: result)) == str(result)
    styles = {text.strip(): style for style, text in render(result)}
    assert styles["long:"] == NAME
    assert styles["name  count"] == styles["Second"] == TITLE
