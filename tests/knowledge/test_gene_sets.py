"""Gene sets are read as they stand in the file, and a line that is none is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2s.common.errors import C2SWarning, InputError
from c2s.knowledge.gene_sets import GeneSet, read_gmt


@pytest.fixture
def gmt(tmp_path):
    def write(content):
        path = tmp_path / "sets.gmt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_sets_of_a_file(gmt):
    path = gmt("HALLMARK_A\thttp://x.org/a\tINS\tGCG\n\nSET B\t>\tsst\tPPY\tSST\t\n")
    assert read_gmt(path) == [
        GeneSet("HALLMARK_A", "http://x.org/a", ("INS", "GCG")),
        GeneSet("SET B", ">", ("SST", "PPY")),
    ]
    assert read_gmt(str(path)) == read_gmt(path)


def test_the_title_is_the_name_in_words():
    assert GeneSet("HALLMARK__INTERFERON_ALPHA_", "", ("A",)).title == "HALLMARK INTERFERON ALPHA"
    assert GeneSet("plain name", "", ("A",)).title == "plain name"


@pytest.mark.parametrize(
    "content",
    [
        "A\tx\tINS\r\nB\ty\tGCG\r\n",
        b"\xef\xbb\xbfA\tx\tINS\nB\ty\tGCG",
        " A \t x \t INS \t\t\nB\ty\t\tGCG\t",
        "A\tx\tINS\n \n\nB\ty\tGCG\n\n",
    ],
    ids=["Windows", "byte-order mark", "spaces and empty fields", "empty lines"],
)
def test_what_editors_do_to_files(gmt, content):
    assert read_gmt(gmt(content)) == [GeneSet("A", "x", ("INS",)), GeneSet("B", "y", ("GCG",))]


def test_a_description_may_hold_any_character(gmt):
    description = "ä \x1c \x0b \u2028 b"
    assert read_gmt(gmt(f"A\t{description}\tINS\n"))[0].description == description


names = st.text("ABcd_1", min_size=1, max_size=6)


@given(st.dictionaries(names, st.lists(names, min_size=1, max_size=5), min_size=1, max_size=6))
def test_everything_comes_back(tmp_path_factory, sets):
    path = tmp_path_factory.mktemp("gmt") / "s.gmt"
    path.write_text("".join("\t".join([n, "x", *genes]) + "\n" for n, genes in sets.items()))
    found = read_gmt(path)
    assert [s.name for s in found] == list(sets)
    for s in found:
        assert s.genes == tuple(dict.fromkeys(g.upper() for g in sets[s.name]))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("A\tx\tINS\nB\ty\n", "line 2 ('B\\ty') has no genes"),
        ("just a text\n", "line 1 ('just a text') has no genes"),
        ("\tx\tINS\n", "line 1"),
        ("A\tx\t\t\t\n", "line 1"),
        ("A\tx\tINS GCG\n", "line 1 (A) has a gene with white space"),
        ("A\tx\tINS\n\nB\tx\tINS\nA\ty\tGCG\n", "line 4 repeats the set 'A' of line 1"),
        ("", "holds no gene set"),
        ("\n \n", "holds no gene set"),
        (b"A\tx\t\xff\n", "not text in UTF-8 (invalid start byte at byte 4)"),
    ],
)
def test_a_line_that_is_no_set_is_named(gmt, content, says):
    path = gmt(content)
    with pytest.raises(InputError) as caught:
        read_gmt(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert says in message
    assert "\n" not in message


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(
        InputError, match=r"none\.gmt: cannot be read \(No such file or directory\)$"
    ):
        read_gmt(tmp_path / "none.gmt")
    with pytest.raises(InputError, match="cannot be read"):
        read_gmt(tmp_path)


def test_bad_lines_can_be_left_out(gmt):
    path = gmt("A\tx\tINS\nB\ty\nA\tz\tGCG\nC\tx\tSST\n")
    with pytest.warns(C2SWarning) as warned:
        found = read_gmt(path, skip_bad=True)
    assert found == [GeneSet("A", "x", ("INS",)), GeneSet("C", "x", ("SST",))]
    first, second = (str(each.message) for each in warned)
    assert first.startswith(f"{path}: line 2 ")
    assert second.startswith(f"{path}: line 3 repeats the set 'A' of line 1")
    with pytest.warns(C2SWarning), pytest.raises(InputError, match="holds no gene set"):
        read_gmt(gmt("B\ty\n"), skip_bad=True)
