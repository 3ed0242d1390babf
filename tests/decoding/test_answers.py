"""From wording to constraints: what a task's true answer is made of can be written, and is read back as its cells."""

from types import SimpleNamespace

import numpy as np
import pytest

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError
from c2s.constraints.samples import CellSample
from c2s.constraints.trie import GeneSentence
from c2s.decoding.answers import GeneChoice, answer_constraint, texts_around
from c2s.tasks.prompts import TaskWording, load_prompts
from c2s.tasks.registry import get_task
from c2s.tokens.tokenizer import CellTokenizer, add_gene_tokens, load_tokenizer

GENES = GeneVocabulary("IFI6 IFI6X INS INSR INS-IGF2 RPL3 RPL31 RPL32 HLA-A HLA-B HLA-DRA".split())
#: A layout of three lines a cell, in which no space stands before its first gene and a full stop behind its last.
LINES = TaskWording.from_dict(
    {
        "prompts": ["{num_cells} cells of {organism} {tissue}, {num_genes} genes:"],
        "response": "{cells}",
        "each_cell": "Cell {number}:\n{cell_sentence}.\n",
        "each_label": "Cell {number}:\n{cell_type}.\n",
        "between": "",
    },
    "test",
)
WORDINGS = {
    "a line a cell": ("cond_sample_tissue", load_prompts("c2s").wording("cond_sample_tissue")),
    "three lines a cell": ("cond_sample_tissue", LINES),
    "one cell": ("cond_cell", load_prompts("c2s").wording("cond_cell")),
}


def accepts(model, task, wording, cells):
    """Write a true answer token by token; return the cells that the state then holds."""
    values = {"organism": "Homo sapiens", "tissue": "kidney", "cell_type": "beta"}
    given = cells if task.kind == "multi" else cells[0]
    response = task.example(wording, wording.prompts[0], values, given).response
    ids = [*model.tokenizer.encode(response).tolist(), model.tokenizer.eos_id]
    choice = GeneChoice(
        np.arange(len(model.tokenizer.vocabulary)), len(cells[0]), np.array([], int)
    )
    begin, constraint = answer_constraint(model, texts_around(task, wording, len(cells)), choice)
    assert ids[: len(begin)] == begin.tolist()
    state, rest = constraint.start(), ids[len(begin) :]
    n_before = len(rest)
    while not state.done:
        assert rest[0] in state.allowed()
        state.advance(rest.pop(0))
    assert n_before - len(rest) <= constraint.max_tokens
    return state.cells if isinstance(constraint, CellSample) else [state.genes]


def model_of(tokenizer, frequencies=()):
    return SimpleNamespace(
        tokenizer=tokenizer, card=SimpleNamespace(gene_frequencies=list(frequencies))
    )


@pytest.mark.parametrize("name", WORDINGS)
@pytest.mark.parametrize("mode", ["text", "genes"])
def test_true_answers_can_be_written(name, mode, make_tokenizer):
    task, wording = get_task(WORDINGS[name][0]), WORDINGS[name][1]
    model = model_of(make_tokenizer(GENES, mode))
    rng = np.random.default_rng(0)
    for _ in range(20):
        n_cells = int(rng.integers(2, 5)) if task.kind == "multi" else 1
        cells = [rng.permutation(len(GENES))[:6].astype(np.int32) for _ in range(n_cells)]
        assert accepts(model, task, wording, cells) == [cell.tolist() for cell in cells]


@pytest.mark.parametrize("backend", ["gpt-neox", "gemma", "smollm2"])
@pytest.mark.parametrize("mode", ["text", "genes"])
@pytest.mark.parametrize("name", WORDINGS)
def test_true_answers_of_real_tokenizers(backend, mode, name, real_tokenizers, cut_genes):
    task, wording = get_task(WORDINGS[name][0]), WORDINGS[name][1]
    tokenizer = load_tokenizer(real_tokenizers / backend)
    if mode == "genes":
        add_gene_tokens(tokenizer, cut_genes)
    model = model_of(CellTokenizer(tokenizer, cut_genes, mode))
    rng = np.random.default_rng(1)
    n_cells = 12 if task.kind == "multi" else 1
    cells = [rng.permutation(len(cut_genes))[:20].astype(np.int32) for _ in range(n_cells)]
    assert accepts(model, task, wording, cells) == [cell.tolist() for cell in cells]


def test_the_end_of_a_cell_is_what_stands_behind_it(make_tokenizer):
    """The last gene of a cell may be the start of another: the next token of the layout says that it is not."""
    tokenizer = make_tokenizer(GENES, "text")
    choice = GeneChoice(np.arange(len(GENES)), 2, np.array([], int))
    _, sample = answer_constraint(
        model_of(tokenizer), [" Cell 1:\n", ".\nCell 2:\n", ".\n"], choice
    )
    stop = tokenizer.encode_english(".").tolist()
    assert [[s.end_token] for s in sample.sentences] == [stop, stop]
    _, one = answer_constraint(model_of(tokenizer), [" ", "."], choice)
    assert [one.end_token] == stop
    _, one = answer_constraint(model_of(tokenizer), [" ", ""], choice)
    assert one.end_token == tokenizer.eos_id


def test_frequencies_and_required_genes_come_with_their_columns(make_tokenizer):
    choice = GeneChoice(np.array([1, 3, 4, 8]), 2, np.array([2]))
    model = model_of(make_tokenizer(GENES, "text"), range(100, 111))
    begin, constraint = answer_constraint(model, [" ", ""], choice)
    assert isinstance(constraint, GeneSentence)
    assert begin.tolist() == []
    assert constraint.frequencies.tolist() == [101, 103, 104, 108]
    assert constraint.required.tolist() == [2]


def test_a_text_that_runs_into_genes_is_refused(make_tokenizer):
    model = model_of(make_tokenizer(GENES, "text"))
    choice = GeneChoice(np.arange(len(GENES)), 2, np.array([], int))
    with pytest.raises(InputError, match="does not keep 'X' apart|may go on with a gene"):
        answer_constraint(model, [" ", "X", ""], choice)
