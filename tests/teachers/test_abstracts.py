"""The file of abstracts: what is written is read again, and what is wrong is named by line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2s.common.errors import InputError
from c2s.teachers.abstracts import Study, read_abstracts, write_abstracts

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
studies = st.lists(
    st.builds(Study, texts, texts, st.lists(texts, max_size=3).map(tuple)),
    min_size=1, max_size=5, unique_by=lambda study: study.study,
)  # fmt: skip


@given(studies=studies)
def test_what_is_written_is_read_again(studies, tmp_path_factory):
    path = tmp_path_factory.mktemp("abstracts") / "abstracts.jsonl"
    write_abstracts(path, studies)
    read = read_abstracts(path)
    assert list(read.values()) == studies
    assert list(read) == [study.study for study in studies]


def test_a_file_by_hand(tmp_path):
    path = tmp_path / "abstracts.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"study": "A", "abstract": "One \xe2\x80\xa8 line."}\r\n\r\n'
        b'{"paraphrases": ["p", "q"], "abstract": "Two.", "study": "B"}\n'
        b'{"study": "C", "abstract": "Three.", "paraphrases": null}'
    )
    assert read_abstracts(path) == {
        "A": Study("A", "One \u2028 line."),
        "B": Study("B", "Two.", ("p", "q")),
        "C": Study("C", "Three."),
    }


def test_lines_are_plain_json(tmp_path):
    path = tmp_path / "abstracts.jsonl"
    write_abstracts(path, [Study("A", "α-cells"), Study("B", "b", ("c",))])
    assert path.read_text("utf-8").splitlines() == [
        '{"study": "A", "abstract": "α-cells"}',
        '{"study": "B", "abstract": "b", "paraphrases": ["c"]}',
    ]


GOOD = json.dumps({"study": "A", "abstract": "a"})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"study": "B", "abstract": ', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('"B"', "expected an object"),
        ('{"study": "B"}', "the field 'abstract' is missing"),
        ('{"abstract": "b"}', "the field 'study' is missing"),
        ('{"study": "B", "abstract": " "}', "abstract is empty"),
        ('{"study": "", "abstract": "b"}', "study is empty"),
        ('{"study": 5, "abstract": "b"}', "study must be a text, found 5"),
        ('{"study": "B", "abstract": "\\ud800"}', "abstract holds half a character"),
        ('{"study": "B", "abstract": "b", "paraphrase": []}', "did you mean 'paraphrases'?"),
        ('{"study": "B", "abstract": "b", "paraphrases": "c"}', "'paraphrases' must be a list"),
        ('{"study": "B", "abstract": "b", "paraphrases": ["c", ""]}', "paraphrase 2 is empty"),
        (GOOD, "the study 'A' stands in line 1 already"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_named(tmp_path, line, said):
    path = tmp_path / "abstracts.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n", "utf-8")
    with pytest.raises(InputError) as caught:
        read_abstracts(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_abstracts(tmp_path / "absent.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no study"):
        read_abstracts(tmp_path / "empty.jsonl")
    (tmp_path / "latin.jsonl").write_bytes('{"study": "é"'.encode("latin-1"))
    with pytest.raises(InputError, match=r"not a text in UTF-8 \(byte 11\)"):
        read_abstracts(tmp_path / "latin.jsonl")


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    path = tmp_path / "abstracts.jsonl"
    with pytest.raises(InputError, match="given twice"):
        write_abstracts(path, [Study("A", "a"), Study("A", "b")])
    with pytest.raises(InputError, match="study 'A': abstract is empty"):
        write_abstracts(path, [Study("A", "")])
    assert not path.exists()
