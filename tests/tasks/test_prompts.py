"""Wording: our own pack, packs in TOML files, and the upstream one of an installed `cell2sentence`."""

import importlib
import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2s.common.errors import InputError, UsageError
from c2s.tasks.prompts import PromptPack, Template, load_prompts

CELL = np.array([4, 2, 7], dtype=np.int32)
TYPE_FILE = "single_cell_cell_type_prediction_prompts.json"
CELL_FILE = "single_cell_cell_type_conditional_generation_prompts.json"


@pytest.fixture(autouse=True)
def fresh_packs():
    load_prompts.cache_clear()
    yield
    load_prompts.cache_clear()


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


class TestOurPack:
    @pytest.mark.parametrize(
        ("task", "given", "answer"),
        [
            ("cell_type", {"num_genes", "organism", "cell_sentence"}, "cell_type"),
            ("cond_cell", {"num_genes", "organism", "cell_type"}, "cell_sentence"),
        ],
    )
    def test_ten_wordings_that_ask_for_everything_but_the_answer(self, task, given, answer):
        wording = load_prompts("c2s").wording(task)
        assert len(wording.prompts) >= 10
        assert len(set(wording.prompts)) == len(wording.prompts)
        for template in wording.prompts:
            assert template.fields == given
        assert wording.response.fields == {answer}

    @pytest.mark.parametrize("task", ["cell_type", "cond_cell"])
    def test_a_response_brings_its_own_space(self, task):
        wording = load_prompts("c2s").wording(task)
        values = {
            "num_genes": 3,
            "organism": "Mus musculus",
            "cell_type": "beta",
            "cell_sentence": "A B",
        }
        for template in wording.prompts:
            (prompt,) = template.fill(values)
            assert prompt == prompt.rstrip()
        (response,) = wording.response.fill(values)
        assert response == " " + response.strip()

    def test_texts_restore_it(self):
        pack = load_prompts("c2s")
        again = PromptPack.restore("c2s", json.loads(json.dumps(pack.texts())))
        assert again == pack

    def test_a_task_without_wording_is_named(self):
        with pytest.raises(
            UsageError, match="no wording for 'tissue'; they have: cell_type, cond_cell"
        ):
            load_prompts("c2s").wording("tissue")

    def test_every_wording_is_drawn_equally_often(self):
        wording = load_prompts("c2s").wording("cell_type")
        rng = np.random.default_rng(0)
        drawn = [wording.prompts.index(wording.pick(rng)) for _ in range(6000)]
        counts = np.bincount(drawn, minlength=len(wording.prompts))
        expected = 6000 / len(counts)
        assert (
            (counts - expected) ** 2 / expected
        ).sum() < 31.3  # χ², 11 degrees of freedom, 0.001


class TestTemplate:
    @pytest.mark.parametrize("text", ["a {b", "a }", "{a", "{", "}{", "{a{b}"])
    def test_a_brace_that_does_not_close_is_refused(self, text):
        with pytest.raises(InputError, match="brace|plain name"):
            Template.parse(text)

    @pytest.mark.parametrize("place", ["{}", "{0}", "{a!r}", "{a:>5}", "{a.b}", "{a[0]}", "{a b}"])
    def test_a_place_that_is_not_a_name_is_refused(self, place):
        with pytest.raises(InputError, match="not a plain name") as error:
            Template.parse(f"cell {place}")
        assert "cell {" in one_line(error)

    @given(
        literals=st.lists(st.text("ab{}\n :é", max_size=8), min_size=4, max_size=4),
        values=st.lists(st.text(max_size=5), min_size=3, max_size=3),
    )
    def test_fills_text_as_str_format_does(self, literals, values):
        escaped = [x.replace("{", "{{").replace("}", "}}") for x in literals]
        text = "{x}".join(escaped[:2]) + "{y}".join(["", escaped[2]]) + "{z}" + escaped[3]
        filled = Template.parse(text).fill(dict(zip("xyz", values, strict=True)))
        wanted = text.format(**dict(zip("xyz", values, strict=True)))
        assert filled == ([wanted] if wanted else [])

    @given(literals=st.lists(st.text("ab{}\n :é", max_size=8), min_size=3, max_size=3))
    def test_its_text_makes_it_again(self, literals):
        escaped = [x.replace("{", "{{").replace("}", "}}") for x in literals]
        text = "{x}{y}".join(escaped)
        template = Template.parse(text)
        assert template.text == text
        assert Template.parse(template.text) == template

    def test_a_cell_stays_an_array_between_texts(self):
        template = Template.parse("{n} genes: {cell_sentence}\nof {who}{n}")
        before, cell, behind = template.fill({"n": 3, "cell_sentence": CELL, "who": "me"})
        assert (before, behind) == ("3 genes: ", "\nof me3")
        assert cell is CELL

    def test_a_cell_alone(self):
        (cell,) = Template.parse("{cell_sentence}").fill({"cell_sentence": CELL})
        assert cell is CELL

    def test_a_missing_value_is_named(self):
        with pytest.raises(UsageError, match="needs 'organism', which was not given"):
            Template.parse("{organism}").fill({"cell_type": "beta"})


class TestFiles:
    def test_a_file_and_a_folder(self, tmp_path):
        (tmp_path / "cell_type.toml").write_text(
            'prompts = ["Was ist {cell_sentence}?  "]\nresponse = "{cell_type}!"'
        )
        for path in (tmp_path, tmp_path / "cell_type.toml"):
            wording = load_prompts(str(path)).wording("cell_type")
            (template,) = wording.prompts
            assert template.fill({"cell_sentence": "A B"}) == ["Was ist A B?"]
            assert wording.response.fill({"cell_type": "beta"}) == [" beta!"]

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"prompts = [", "not valid TOML"),
            (b"\xff\xfe", "not valid TOML"),
            (b'response = "x"', "'prompts' must be a list of at least one text"),
            (b'prompts = []\nresponse = "x"', "'prompts' must be a list of at least one text"),
            (b'prompts = "x"\nresponse = "x"', "'prompts' must be a list of at least one text"),
            (b'prompts = [1]\nresponse = "x"', "'prompts' must be a list of at least one text"),
            (b'prompts = ["x"]', "'response' must be a text"),
            (b'prompts = ["x {a"]\nresponse = "x"', "'x {a' has a brace that does not close"),
            (b'prompts = ["x"]\nresponse = "{0}"', "not a plain name: {0}"),
        ],
    )
    def test_what_is_wrong_is_said_with_the_file(self, tmp_path, content, said):
        path = tmp_path / "cell_type.toml"
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            load_prompts(str(path))
        assert said in one_line(error)
        assert one_line(error).startswith(f"{path}: ")

    @pytest.mark.parametrize("name", ["nothing", "."])
    def test_no_prompts_there(self, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match="give 'c2s', 'upstream', a TOML file or a folder"):
            load_prompts(name)


@pytest.fixture
def upstream(tmp_path, monkeypatch):
    """A stand-in for the `cell2sentence` package, with wording invented here; importing it is an error."""
    folder = tmp_path / "cell2sentence"
    (folder / "prompts").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('the package must not be run')")
    monkeypatch.delitem(sys.modules, "cell2sentence", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    write = {
        TYPE_FILE: {
            "model_input": ["{num_genes} {organism} {cell_sentence} = "],
            "response": ["{cell_type}."],
        },
        CELL_FILE: {
            "model_input": ["make {cell_type}", "do {cell_type}"],
            "response": "{cell_sentence}.",
        },
    }
    for file, content in write.items():
        (folder / "prompts" / file).write_text(json.dumps(content))
    return folder / "prompts"


class TestUpstream:
    def test_without_the_package_the_extra_is_named(self, monkeypatch):
        monkeypatch.setattr("c2s.tasks.prompts.find_spec", lambda name: None)
        with pytest.raises(UsageError) as error:
            load_prompts("upstream")
        assert "pip install 'c2s-toolkit[upstream]'" in one_line(error)

    def test_is_read_from_the_package_without_running_it(self, upstream):
        pack = load_prompts("upstream")
        assert pack.name == "upstream"
        asked = pack.wording("cell_type")
        values = {
            "num_genes": 2,
            "organism": "Homo sapiens",
            "cell_sentence": "A B",
            "cell_type": "beta",
        }
        assert asked.prompts[0].fill(values) == ["2 Homo sapiens A B ="]
        assert asked.response.fill(values) == [" beta."]
        wanted = pack.wording("cond_cell")
        assert [t.fill(values) for t in wanted.prompts] == [["make beta"], ["do beta"]]
        assert wanted.response.fill(values) == [" A B."]
        assert "cell2sentence" not in sys.modules

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (None, "keeps its prompts elsewhere"),
            ("{", "not valid JSON"),
            ("[]", "not the prompts of a task"),
            ('{"response": ["x"]}', "'prompts' must be a list"),
            ('{"model_input": ["x"], "response": []}', "'response' must be a text"),
        ],
    )
    def test_another_form_is_said_with_the_file(self, upstream, content, said):
        path = upstream / TYPE_FILE
        path.unlink()
        if content is not None:
            path.write_text(content)
        with pytest.raises(InputError) as error:
            load_prompts("upstream")
        assert said in one_line(error)
        assert str(path) in one_line(error)
