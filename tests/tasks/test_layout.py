"""Several cells, or their types, in one text: as written, and as read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2s.common.errors import InputError
from c2s.tasks.layout import CELLS, LABELS, Layout

UPSTREAM_LIKE = ("Cell {number}:\n{cell_type}.\n", "")
LAYOUTS = [
    ("Cell {number}: {cell_type}", "\n"),
    UPSTREAM_LIKE,
    ("[Cell {number}] {cell_type}", "\n"),
    ("{number}. {cell_type}", "\n\n"),
    ("{cell_type}", "\n"),
    ("- {cell_type}", "\n"),
    ("{cell_type};", "\n"),
    ("{cell_type}", " | "),
    ("(Cell {number}) {cell_type}", " | "),
    ("Cell {number} is {cell_type}", " || "),
    ("\n{number}: {cell_type}", ""),
]

#: Labels as they come: letters of any script, digits, punctuation; one line, nothing around them.
labels = (
    st.text(
        st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="|")
        | st.just(" "),
        min_size=1,
        max_size=12,
    )
    .map(lambda text: " ".join(text.split()))
    .filter(bool)
)
tricky = st.sampled_from(
    ["Cell 2: beta", "sp.", "T cell, CD4+", "cell", "1", "12 3", ":", ".", "Cell", "type 2:"]
)


def test_ours_is_a_line_a_cell():
    assert CELLS.write([7, 8, 9]) == ["Cell 1: ", 7, "\nCell 2: ", 8, "\nCell 3: ", 9, ""]
    assert "".join(LABELS.write(["a", "b"])) == "Cell 1: a\nCell 2: b"
    assert CELLS.write([]) == []


@pytest.mark.parametrize("layout", LAYOUTS, ids=repr)
@given(items=st.lists(labels | tricky, min_size=1, max_size=12))
def test_what_is_written_is_read_back(layout, items):
    if (
        layout == UPSTREAM_LIKE
    ):  # where entries have a line of their own, none begins like a heading
        items = [item.replace("Cell 2", "Cell two") for item in items]
    layout = Layout.parse(layout[0], "cell_type", layout[1])
    text = "".join(layout.write(items))
    assert layout.read(text, len(items)) == items
    assert layout.read(f" {text}\n", len(items) + 2) == [*items, None, None]
    assert layout.read(text, 0) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Cell 1: a\nCell 2: b\nCell 3: c", ["a", "b", "c"]),
        ("cell 1 :a \n\n  CELL 2:  b\r\nCell3: c", ["a", "b", "c"]),
        ("Cell 3: c\nCell 1: a", ["a", None, "c"]),
        ("Cell 1: a\nCell 1: again\nCell 2: b", ["a", "b", None]),
        ("Cell 1:\nCell 2: b\nCell 3:", [None, "b", None]),
        ("Cell 0: z\nCell 2: b\nCell 4: d\nCell 99999999999: e", [None, "b", None]),
        ("Here they are:\nCell 1: a", ["a", None, None]),
        ("Cell 1: a Cell 2: b", ["a Cell 2: b", None, None]),
        ("a\nb\nc", [None, None, None]),
        ("", [None, None, None]),
    ],
)
def test_an_answer_that_is_not_quite_in_form(text, found):
    assert LABELS.read(text, 3) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Cell 1:\nA B.\nCell 2:\nC D.\n", ["A B", "C D"]),
        ("Cell 1: A B.\nCell 2: C D.", ["A B", "C D"]),  # gene tokens swallow the line break
        ("Cell 1:\nA B\nCell 2:\nC D", ["A B", "C D"]),
        ("Cell 1:\n.\nCell 2:\nC D.", [None, "C D"]),
        ("Cell 1:\nCell 2:\nC D.", [None, "C D"]),
    ],
)
def test_full_stops_behind_entries(text, found):
    each, between = UPSTREAM_LIKE
    assert Layout.parse(each, "cell_type", between).read(text, 2) == found


@pytest.mark.parametrize(
    ("each", "between", "said"),
    [
        ("Cell {number}", "\n", "must have the place {cell_type} once"),
        ("{cell_type} {cell_type}", "\n", "it has: {cell_type}, {cell_type}"),
        ("{cell_type} {number}", "\n", "before it at most {number}"),
        ("{number}{number} {cell_type}", "\n", "before it at most {number}"),
        ("{cell_sentence}", "\n", "it has: {cell_sentence}"),
        ("plain", "\n", "it has: none"),
        ("{number}{cell_type}", "\n", "needs a text between {number} and {cell_type}"),
        ("{number}0{cell_type}", "\n", "needs a text between {number} and {cell_type}"),
        ("{cell_type}", " ", "would run them together"),
        ("Cell {number}: {cell_type}", "", "would run them together"),
        ("Cell {number: {cell_type}", "\n", "brace|plain name"),
    ],
)
def test_a_layout_that_could_not_be_read_is_refused(each, between, said):
    with pytest.raises(InputError, match=said) as error:
        Layout.parse(each, "cell_type", between)
    assert "\n" not in str(error.value)
