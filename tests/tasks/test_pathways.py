"""The line before an answer: its words, its tokens in both modes, and which tasks take it."""

import numpy as np
import pytest

from c2s.cells.ranked import RankedCells
from c2s.common.errors import InputError, UsageError
from c2s.knowledge.gene_sets import GeneSet
from c2s.knowledge.pathways import PathwaySets
from c2s.tasks.pathways import (
    PathwayLine,
    Pathways,
    line,
    line_constraint,
    takes_pathways,
    with_line,
)
from c2s.tasks.registry import TASKS
from c2s.tokens.tokenizer import CellTokenizer, add_gene_tokens, load_tokenizer

NAMES = ["interferon alpha response", "interferon gamma response", "hypoxia", "ins", "e2f (v2)"]


def test_the_line_goes_before_the_first_text_of_a_response():
    assert with_line(" Pathways: a.", [" beta cell"]) == [" Pathways: a. beta cell"]
    cell = np.array([1, 2])
    first, second = with_line(" Pathways: a.", [" ", cell])
    assert first == " Pathways: a. "
    assert second is cell
    assert with_line(" Pathways: a.", [7]) == [" Pathways: a.", 7]


def test_only_tasks_of_one_cell_with_a_label_or_a_cell_take_it():
    assert {name for name, task in TASKS.items() if takes_pathways(task)} == {
        "sc_lm", "cell_type", "cond_cell",
    }  # fmt: skip
    with pytest.raises(
        UsageError, match="tasks = .* before the answer of tasks of one cell .*'tissue'"
    ):
        PathwayLine.parse({"names": ["a"], "number": 1, "tasks": ["tissue"]}, "card")
    with pytest.raises(UsageError, match="2 of 1 pathways cannot be named"):
        PathwayLine.parse({"names": ["a"], "number": 2, "tasks": ["sc_lm"]}, "card")


def test_lines_name_the_best_sets(cut_genes):
    sets = PathwaySets.of(
        [GeneSet("SET_A", "", ("INS", "IAPP")), GeneSet("SET_B", "", ("GCG", "TTR"))], cut_genes, 2
    )
    cells = RankedCells.from_columns(
        [cut_genes.columns(["GCG", "INS", "IAPP"]), cut_genes.columns(["TTR", "GCG"])], cut_genes
    )
    named = Pathways(sets, 1, {"cell_type"})
    assert named.lines(cells) == [" Pathways: a.", " Pathways: b."]
    # Only what is shown counts: one gene of the first cell.
    assert named.lines(cells, np.array([1, 2])) == [" Pathways: b.", " Pathways: b."]


@pytest.fixture(params=["text", "genes"])
def tokenizer(request, make_tokenizer, cut_genes):
    return make_tokenizer(cut_genes, request.param)


def walk(constraint, ids):
    """Return the names of a list, every token of which must be allowed."""
    state = constraint.start()
    for token in ids:
        assert token in state.allowed()
        state.advance(int(token))
    assert state.done
    return state.names


def check_lines(tokenizer):
    wanted = PathwayLine(names=NAMES, number=2, tasks=["cond_cell"])
    begin, constraint = line_constraint(tokenizer, wanted)
    gene = np.array([3, 0, 1], np.int32)
    for a in range(len(NAMES)):
        for b in range(len(NAMES)):
            for answer in ([" beta"], [" ", gene]):
                if a == b:
                    continue
                text = line([NAMES[a], NAMES[b]])
                ids = tokenizer.encode(with_line(text, answer)).tolist()
                behind = tokenizer.encode(answer).tolist()
                assert ids[: len(begin)] == begin
                assert ids[len(ids) - len(behind) :] == behind
                assert walk(constraint, ids[len(begin) : len(ids) - len(behind)]) == [a, b]


def test_every_line_of_a_response_is_what_decoding_writes(tokenizer):
    # In genes mode too, where "INS" is a gene and "ins" is none.
    check_lines(tokenizer)


@pytest.mark.parametrize("mode", ["text", "genes"])
@pytest.mark.parametrize("name", ["gpt-neox", "gemma", "smollm2"])
def test_with_real_tokenizers(real_tokenizers, name, mode, cut_genes):
    backend = load_tokenizer(real_tokenizers / name)
    if mode == "genes":
        add_gene_tokens(backend, cut_genes)
    check_lines(CellTokenizer(backend, cut_genes, mode))


def test_a_tokenizer_with_tokens_across_names_is_refused(cut_genes):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    # Without the regular expression, tokens span words: "; hypoxia" becomes one.
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    raw.train_from_iterator([line(["hypoxia", "hypoxia"])] * 50, trainer)
    backend = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|endoftext|>")
    wanted = PathwayLine(names=["hypoxia"], number=1, tasks=["cond_cell"])
    with pytest.raises(InputError, match="pathways: the tokenizer does not keep the pathway 'hypoxia' apart"):  # fmt: skip
        line_constraint(CellTokenizer(backend, cut_genes, "text"), wanted)
