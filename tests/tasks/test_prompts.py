"""Wording: our own pack, packs in TOML files, and the upstream one of an installed `cell2sentence`."""

import hashlib
import importlib
import importlib.util
import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2s.common.errors import InputError, UsageError
from c2s.tasks.prompts import PromptPack, Template, load_prompts
from c2s.tasks.registry import TASKS

CELL = np.array([4, 2, 7], dtype=np.int32)
TYPE_FILE = "single_cell_cell_type_prediction_prompts.json"
CELL_FILE = "single_cell_cell_type_conditional_generation_prompts.json"
TISSUE_FILE = "multi_cell_tissue_prediction_prompts.json"
SAMPLE_FILE = "multi_cell_tissue_conditional_generation.json"
ABSTRACT_FILE = "multi_cell_natural_lang_interpretation_prompts.json"


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
    def test_has_every_task_and_no_other(self):
        assert list(load_prompts("c2s").tasks) == sorted(TASKS)

    @pytest.mark.parametrize("task", TASKS)
    def test_ten_wordings_or_more_all_different(self, task):
        prompts = load_prompts("c2s").wording(task).prompts
        assert len(prompts) >= 10
        assert len({" ".join(p.text.casefold().split()) for p in prompts}) == len(prompts)

    def test_no_wording_serves_two_tasks(self):
        texts = [p.text for w in load_prompts("c2s").tasks.values() for p in w.prompts]
        assert len(set(texts)) == len(texts)

    def test_texts_restore_it(self):
        pack = load_prompts("c2s")
        again = PromptPack.restore("c2s", json.loads(json.dumps(pack.texts())))
        assert again == pack

    def test_texts_of_a_model_saved_before_there_were_samples_restore_it(self):
        pack = load_prompts("c2s")
        texts = {
            task: {"prompts": text["prompts"], "response": text["response"]}
            for task, text in pack.texts().items()
        }
        assert PromptPack.restore("c2s", texts) == pack

    def test_a_task_without_wording_is_named(self):
        with pytest.raises(
            UsageError, match="no wording for 'perturbation'; they have: cell_type,"
        ):
            load_prompts("c2s").wording("perturbation")

    def test_the_tasks_of_the_demo_are_worded_as_ever(self):
        # sha256 of the prompts in their order: a change here changes the results of the demo.
        pack = load_prompts("c2s")
        digests = {
            task: hashlib.sha256(
                json.dumps([*(p.text for p in w.prompts), w.response.text]).encode()
            ).hexdigest()[:16]
            for task, w in pack.tasks.items()
            if task in ("cell_type", "cond_cell")
        }
        assert digests == {"cell_type": "5db6cf70e78330ed", "cond_cell": "1554e61e092157b5"}

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

    def test_pieces_are_put_in_place_and_english_that_touches_is_merged(self):
        template = Template.parse("{n} of {who}: {cells}{n}{cells}")
        placed = template.place({"n": 2, "who": "me"}, {"cells": ["a ", 7, " b", "c ", 8]})
        assert placed == ["2 of me: a ", 7, " bc ", 8, "2a ", 7, " bc ", 8]

    def test_a_value_that_is_none_is_missing(self):
        with pytest.raises(UsageError, match="needs 'tissue', which was not given"):
            Template.parse("{tissue}").place({"tissue": None}, {})

    def test_a_text_is_not_read_for_places(self):
        assert Template.parse("{a}").place({"a": "{b}"}, {}) == ["{b}"]

    def test_places_are_renamed(self):
        template = Template.parse("x{a}{b}{{a}}").renamed({"a": "c"})
        assert template == Template.parse("x{c}{b}{{a}}")


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
            (b'prompts = ["x"]\nresponse = "x"\nbetween = 1', "'between' must be a text"),
            (b'prompts = ["x"]\nresponse = "x"\neach_cell = ["x"]', "'each_cell' must be a text"),
            (
                b'prompts = ["x"]\nresponse = "x"\neach_cel = "x"',
                "'each_cel' is unknown; there are: prompts,",
            ),
            (b'prompts = ["x"]\nresponse = "x"\neach_cell = "x"', "the place {cell_sentence} once"),
            (b'prompts = ["x"]\nresponse = "x"\neach_label = "{x}"', "the place {cell_type} once"),
        ],
    )
    def test_what_is_wrong_is_said_with_the_file(self, tmp_path, content, said):
        path = tmp_path / "cell_type.toml"
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            load_prompts(str(path))
        assert said in one_line(error)
        assert one_line(error).startswith(f"{path}: ")

    def test_the_layout_of_a_sample_is_wording_too(self, tmp_path):
        (tmp_path / "tissue.toml").write_text(
            'prompts = ["{cells}?"]\nresponse = "{tissue}"\nbetween = " | "\n'
            'each_cell = "{number}) {cell_sentence}"\neach_label = "[{cell_type}]"'
        )
        pack = load_prompts(str(tmp_path))
        wording = pack.wording("tissue")
        assert wording.cells.write([7, 8]) == ["1) ", 7, " | 2) ", 8, ""]
        assert "".join(wording.labels.write(["a", "b"])) == "[a] | [b]"
        again = PromptPack.restore("own", json.loads(json.dumps(pack.texts())))
        assert again.wording("tissue") == wording

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
        TISSUE_FILE: {
            "model_input": ["{num_cells} x {num_genes} {organism}:\n{multi_cell_sentences}.\nfrom"],
            "response": ["{tissue}."],
        },
        SAMPLE_FILE: {
            "model_input": ["{num_cells} x {num_genes} {organism} {tissue}"],
            "response": ["{multi_cell_sentences}."],
        },
        ABSTRACT_FILE: {
            "model_input": ["{num_cells} x {num_genes} {organism}.\n{multi_cell_sentences}.\nwhy"],
            "response": ["{abstract}."],
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

    def test_a_file_that_is_elsewhere_is_named(self, upstream):
        (upstream / ABSTRACT_FILE).unlink()
        with pytest.raises(InputError, match=f"{ABSTRACT_FILE}: missing"):
            load_prompts("upstream")

    def test_its_places_are_called_as_ours(self, upstream):
        pack = load_prompts("upstream")
        assert sorted(pack.tasks) == sorted(
            ["cell_type", "cond_cell", "tissue", "cond_sample_tissue", "nl_interpretation"]
        )
        for task, wording in pack.tasks.items():
            TASKS[task].check_wording(wording, task)

    def test_a_sample_is_laid_out_as_the_package_does(self, upstream):
        pack = load_prompts("upstream")
        values = {
            "organism": "Homo sapiens",
            "num_cells": 2,
            "num_genes": 3,
            "tissue": "liver",
            "abstract": "We looked",
        }
        written = {
            task: tuple(
                "".join(part if isinstance(part, str) else "AB"[part] * 3 for part in side)
                for side in TASKS[task].parts(pack.wording(task), 0, values, [0, 1])
            )
            for task in ("tissue", "cond_sample_tissue", "nl_interpretation")
        }
        body = "Cell 1:\nAAA.\nCell 2:\nBBB.\n"
        assert written == {
            "tissue": (f"2 x 3 Homo sapiens:\n{body}.\nfrom", " liver."),
            "cond_sample_tissue": ("2 x 3 Homo sapiens liver", f" {body}."),
            "nl_interpretation": (f"2 x 3 Homo sapiens.\n{body}.\nwhy", " We looked."),
        }
        back = pack.wording("cond_sample_tissue")
        assert back.cells.read(back.bare(f" {body}.<ctrl100>"), 2) == ["AAA", "BBB"]


@pytest.fixture(scope="module")
def formatter():
    """The prompt formatter of an installed `cell2sentence`, loaded without the rest of the package."""
    spec = importlib.util.find_spec("cell2sentence")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the cell2sentence package is not installed")
    pytest.importorskip("datasets")
    path = f"{spec.submodule_search_locations[0]}/prompt_formatter.py"
    found = importlib.util.spec_from_file_location("upstream_formatter", path)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


class TestInstalledPackage:
    """The texts that the real package makes of real prompts are among ours, word for word."""

    NAMES = {
        "cell_type": "cell_type_prediction",
        "cond_cell": "cell_type_generation",
        "tissue": "tissue_prediction",
        "cond_sample_tissue": "tissue_conditional_generation",
        "nl_interpretation": "natural_language_interpretation",
    }
    FIELDS = {
        "organism": "Homo sapiens",
        "cell_type": "beta",
        "tissue": "pancreas",
        "abstract": "x",
    }

    @pytest.mark.parametrize("task", NAMES)
    def test_is_written_the_same(self, formatter, task):
        from datasets import Dataset

        sentences = ["INS IAPP", "GCG TTR", "SST RBP4"]
        several = TASKS[task].kind == "multi"
        rows = [{**self.FIELDS, "cell_sentence": sentence} for sentence in sentences]
        if several:
            maker = formatter.C2SMultiCellPromptFormatter(self.NAMES[task], 2)
            groups = Dataset.from_list([{**self.FIELDS, "multi_cell_groupings": [0, 1, 2]}] * 40)
            theirs = maker.format_hf_ds(Dataset.from_list(rows), groups)
        else:
            maker = formatter.C2SPromptFormatter(self.NAMES[task], 2)
            theirs = maker.format_hf_ds(Dataset.from_list(rows[:1] * 40))
        wording = load_prompts("upstream").wording(task)
        values = {**self.FIELDS, "num_genes": 2, "num_cells": 3}
        ours = set()
        for i in range(len(wording.prompts)):
            sides = TASKS[task].parts(wording, i, values, range(3) if several else [0])
            ours.add(
                tuple(
                    "".join(p if isinstance(p, str) else sentences[p] for p in side)
                    for side in sides
                )
            )
        assert len(wording.prompts) >= 10
        for prompt, response in zip(theirs["model_input"], theirs["response"], strict=True):
            assert (prompt.rstrip(), " " + response) in ours
