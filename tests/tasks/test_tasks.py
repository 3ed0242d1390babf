"""Tasks: what is asked, what the answer is, and how an answer is read."""

import numpy as np
import pytest

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import UsageError
from c2s.tasks.prompts import load_prompts
from c2s.tasks.single_cell import CELL_TYPE, CONDITIONAL_CELL, TASKS, get_task

LABELS = ["beta", "CD4-positive T cell", "t_cell", "NK cell", "Malassezia sp."]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (" beta", "beta"),
        ("beta.", "beta"),
        (" Beta .", "beta"),
        ("BETA.<|endoftext|>", "beta"),
        ("cd4-positive t cell.<ctrl100>", "CD4-positive T cell"),
        ("NK cell<eos>\n", "NK cell"),
        ("malassezia SP.", "Malassezia sp."),
        ("Malassezia sp..", "Malassezia sp."),
        ("beta cell", None),
        ("alpha", None),
        ("bet", None),
        ("", None),
        (".", None),
    ],
)
def test_an_answer_is_read_as_a_label_or_as_none(text, label):
    assert CELL_TYPE.parse_label(text, LABELS) == label


def test_labels_that_differ_in_case_are_kept_apart():
    assert CELL_TYPE.parse_label(" Th1.", ["th1", "Th1", "TH1"]) == "Th1"
    assert CELL_TYPE.parse_label(" th1", ["th1", "Th1"]) == "th1"


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.id)
def test_what_a_task_says_it_needs_is_what_its_wording_names(task):
    wording = load_prompts("c2s").wording(task.id)
    given = {"num_genes", *task.conditions, *({"cell_sentence"} if task.answer == "label" else ())}
    assert all(template.fields <= given for template in wording.prompts)
    assert wording.response.fields == {task.target}


class TestExample:
    values = {"organism": "Homo sapiens", "cell_type": "beta"}
    cell = np.array([3, 1, 2], dtype=np.int32)

    def test_annotation_shows_the_cell_and_answers_the_label(self):
        wording = load_prompts("c2s").wording("cell_type")
        example = CELL_TYPE.example(wording, wording.prompts[0], self.values, self.cell)
        before, cell, behind = example.prompt
        assert example.task == "cell_type"
        assert cell is self.cell
        assert " 3 " in before
        assert "Homo sapiens" in before + behind
        assert "beta" not in before + behind
        assert example.response == [" beta"]

    def test_generation_names_the_type_and_answers_the_cell(self):
        wording = load_prompts("c2s").wording("cond_cell")
        example = CONDITIONAL_CELL.example(wording, wording.prompts[0], self.values, self.cell)
        (prompt,) = example.prompt
        assert " 3 " in prompt
        assert "beta" in prompt
        space, cell = example.response
        assert (space, cell.tolist()) == (" ", [3, 1, 2])

    def test_generation_is_not_shown_a_cell(self):
        template = load_prompts("c2s").wording("cond_cell").prompts[0]
        asked = CONDITIONAL_CELL.ask(template, self.values, None, 7)
        assert asked == CONDITIONAL_CELL.ask(template, self.values, self.cell, 7)
        assert " 7 " in asked[0]


def test_generated_sentences_are_read_back():
    genes = GeneVocabulary(["INS", "GCG", "SST"])
    parsed = CONDITIONAL_CELL.parse_cells([" SST INS GCG.", "INS NOPE INS"], genes)
    assert parsed.genes.tolist() == [2, 0, 1, 0]
    assert parsed.ranks.tolist() == [0, 1, 2, 1]  # INS at 0 and 2: mean 1
    assert parsed.n_invalid.tolist() == [0, 1]


def test_an_unknown_task_is_answered_with_those_there_are():
    with pytest.raises(UsageError, match="no task 'tissue'; there are: cell_type, cond_cell"):
        get_task("tissue")
