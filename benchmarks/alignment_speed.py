"""How long a step of alignment takes, and what part of it is what: rollouts, rewards, the reference, learning.

    python benchmarks/alignment_speed.py [--preset mini] [--group 32] [--prompts 4] [--genes 100] [--steps 5]

Random weights of a preset's shape on the packaged pancreas cells, a token a gene, the energy distance as reward, one
process on the best device there is. A step writes `prompts` × `group` cells, rewards them and learns from them once;
the first step, which compiles kernels, is left out. Printed are medians over steps with their range, cells a second of
the rollouts, and the share of each part. Of a step the issue wants rewards to take at most 5 %.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np


def trainer_of(options: argparse.Namespace, scratch: Path) -> Any:
    """Return the trainer of such a run."""
    from c2s.cells.sentences import cell_sentences, fit_inverse
    from c2s.cells.vocabulary import GeneVocabulary
    from c2s.corpus.recipe import FIELDS
    from c2s.datasets import pancreas
    from c2s.models.directory import ModelCard, new_model
    from c2s.tokens.tokenizer import CellTokenizer, add_gene_tokens, train_text_tokenizer
    from c2s.training.grpo.opening import open_trainer
    from c2s.training.grpo.questions import CorpusCells
    from c2s.training.grpo.recipe import AlignmentRecipe

    adata = pancreas()
    top = cell_sentences(adata, top_k=options.genes)
    often = np.flatnonzero(np.bincount(top.genes, minlength=len(top.vocabulary)) >= 3)
    vocabulary = GeneVocabulary.from_words([top.vocabulary.words[i] for i in often])
    types = adata.obs["cell_type"].astype(str).to_numpy()
    backend = train_text_tokenizer([f"Write a cell of type {t}." for t in np.unique(types)])
    add_gene_tokens(backend, vocabulary)
    card = ModelCard(
        vocabulary=list(vocabulary.words), mode="genes", top_k=options.genes, tasks=["cond_cell"],
        conditions={"cell_type": np.unique(types).tolist(), "organism": ["Homo sapiens"]},
        inverse={"pancreas": fit_inverse(adata).to_dict()},
    )  # fmt: skip
    model = new_model(options.preset, CellTokenizer(backend, vocabulary, "genes"), card, 0)
    place = np.full(len(top.vocabulary), -1, np.int32)
    place[often] = np.arange(len(often))
    rows = [place[top.to_columns(i)] for i in range(len(top))]
    cells = type(top).from_columns([r[r >= 0] for r in rows], vocabulary)
    fields = {name: np.full(len(cells), None, dtype=object) for name in FIELDS}
    fields |= {
        "cell_type": types.astype(object),
        "organism": np.full(len(cells), "Homo sapiens", object),
    }
    recipe = AlignmentRecipe.parse(
        {
            "stage": "grpo", "base": {"model": "random"}, "data": {"corpus": "in memory"},
            "policy": {"group": options.group, "answers_per_pass": options.answers_per_pass},
            "rewards": ["energy_distance"],
            "optimisation": {
                "steps": options.steps + 1, "batch_size": options.prompts, "learning_rate": 1e-6,
                "precision": "bfloat16" if options.bfloat16 else "float32",
            },
            "evaluation": {"cells": 0, "labels": 0}, "save_every": options.steps + 1,
        },
        "the benchmark",
    )  # fmt: skip
    known = CorpusCells(cells, fields)
    return open_trainer(recipe, model, known, known, scratch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--group", type=int, default=32)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--genes", type=int, default=100)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--answers-per-pass", type=int, default=64)
    parser.add_argument("--bfloat16", action="store_true")
    options = parser.parse_args()
    from transformers import PrinterCallback

    from c2s.training.speed import device_name

    warnings.simplefilter("ignore")
    with TemporaryDirectory() as scratch:
        trainer = trainer_of(options, Path(scratch))
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    steps = [h for h in trainer.state.log_history if "reward" in h][1:]
    whole = np.array([h["step_time"] for h in steps])
    written = options.prompts * options.group
    rollout, reward, watch, drawn = (
        np.array([h.get(f"time/{name}", 0.0) for h in steps])
        for name in ("rollout", "reward", "watch", "drawn")
    )
    parts = {
        "rollouts": rollout,
        "rewards": reward,
        "measures that are watched": watch,
        "log-probabilities of the reference, and advantages": drawn - rollout - reward - watch,
        "learning": whole - drawn,
    }
    print(
        f"{device_name(trainer.args.device)}: {options.preset}, {trainer.questions.model.n_parameters:,} weights, "
        f"{written} cells of {options.genes} genes a step"
    )
    print(f"a step: {np.median(whole):.2f} s ({whole.min():.2f}–{whole.max():.2f})")
    rates = written / rollout
    print(f"rollouts: {np.median(rates):.1f} cells/s ({rates.min():.1f}–{rates.max():.1f})")
    rates = written / parts["learning"]
    print(f"learning: {np.median(rates):.1f} cells/s ({rates.min():.1f}–{rates.max():.1f})")
    for name, seconds in parts.items():
        share = seconds / whole
        print(f"{name}: {np.median(share):.1%} ({share.min():.1%}–{share.max():.1%})")


if __name__ == "__main__":
    main()
