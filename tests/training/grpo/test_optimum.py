"""Alignment on a task whose optimum is known: genes in the order of a programme (SPEC §7.5)."""

import numpy as np
import transformers

from c2s.cells.ranked import RankedCells
from c2s.cells.vocabulary import GeneVocabulary
from c2s.corpus.recipe import FIELDS
from c2s.models.directory import Model
from c2s.training.grpo.opening import open_trainer
from c2s.training.grpo.questions import CorpusCells
from c2s.training.grpo.recipe import AlignmentRecipe

GENES = ["INS", "GCG", "SST", "PPY", "TTR", "REG1A"]


def align(make_tokenizer, make_network, make_card, tmp_path, beta):
    """Align random weights with τ-b to one true cell; return mean rewards and divergences of all steps."""
    vocabulary = GeneVocabulary.from_words(GENES)
    tokenizer = make_tokenizer(vocabulary, "genes")
    card = make_card(
        tokenizer, top_k=len(GENES)
    )  # without a line to expression, which nothing here needs
    model = Model(make_network("llama", tokenizer), tokenizer, card)
    # The order that is wanted is none that random weights would prefer.
    truth = RankedCells.from_columns([[4, 1, 5, 0, 3, 2]] * 2, vocabulary)
    fields = {name: np.full(2, None, object) for name in FIELDS}
    fields |= {
        "cell_type": np.full(2, "acinar", object),
        "organism": np.full(2, "Homo sapiens", object),
    }
    cells = CorpusCells(truth, fields)
    recipe = AlignmentRecipe.parse(
        {
            "stage": "grpo", "base": {"model": "given"}, "data": {"corpus": "given"},
            "policy": {"group": 16, "beta": beta},
            "rewards": [{"name": "kendall_tau", "genes": GENES, "truth": "rank"}],
            "optimisation": {"steps": 60, "batch_size": 2, "learning_rate": 0.003, "schedule": "constant"},
            "evaluation": {"cells": 0, "labels": 0},
        },
        "the recipe",
    )  # fmt: skip
    trainer = open_trainer(recipe, model, cells, cells, tmp_path, device="cpu")
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    steps = [h for h in trainer.state.log_history if "reward" in h]
    return [h["reward"] for h in steps], [h["kl"] for h in steps]


def test_the_optimum_is_reached_and_the_reference_holds_back(
    make_tokenizer, make_network, make_card, tmp_path
):
    fixtures = (make_tokenizer, make_network, make_card, tmp_path)
    rewards, far = align(*fixtures, beta=1e-9)
    assert np.mean(rewards[:3]) < 0.5
    assert np.mean(rewards[-3:]) > 0.97  # 1 is the order itself
    held, near = align(*fixtures, beta=5.0)
    assert np.mean(held[-3:]) < 0.6
    assert np.mean(near[-10:]) < 0.2 * np.mean(far[-10:])
