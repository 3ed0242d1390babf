"""Explanations: what reading the shared beginnings of a cell's variants once saves, and the three methods.

    python benchmarks/explain.py --model demo/model --json explain.json

Pancreas cells and a model directory. **Each alone** scores the variants of a cell that lack a gene each as any prompts
are scored; **alike** is what `c2s.tl.explain` does. In each round everything runs once, in turn, on the same cells; a
ratio is taken within its round. Before, both ways are checked to give the same log-probabilities.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData

import c2s
from c2s.analysis.cells import cells_for_model, condition_texts
from c2s.analysis.explain import Question, of_cell
from c2s.tasks.single_cell import CELL_TYPE

ALONE = "variants scored each alone"
ALIKE = "variants scored as alike"


def variants(question: Question, adata: AnnData) -> list[list[np.ndarray]]:
    """Return the prompts of each cell: one without each gene, and the whole."""
    cells = cells_for_model(adata, question.model)
    texts = condition_texts(adata, question.model, CELL_TYPE, {})
    found = []
    for row in range(len(cells)):
        columns, given = cells.to_columns(row), of_cell(texts, row)
        shown = [*(np.delete(columns, i) for i in range(len(columns))), columns]
        found.append([question.prompt(each, given, len(columns)) for each in shown])
    return found


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--cells", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    model = c2s.load_model(options.model)
    adata = c2s.datasets.pancreas()
    adata = adata[:: adata.n_obs // options.cells][: options.cells].copy()
    question = Question.of(model, None, None, None)
    prompts = variants(question, adata)

    def score(alike: bool) -> np.ndarray:
        score = partial(question.engine.score, answers=question.answers, alike=alike)
        return np.concatenate([score(each) for each in prompts])

    difference = np.abs(score(True) - score(False)).max()
    print(
        f"{model!r}, {options.cells} cells of {np.mean([len(p[-1]) for p in prompts]):.0f} tokens, "
        f"{torch.get_num_threads()} threads, {platform.machine()}, load {os.getloadavg()[0]:.1f}; "
        f"largest difference of the log-probabilities: {difference:.1e}"
    )
    runs: dict[str, Callable[[], object]] = {
        ALONE: lambda: score(False),
        ALIKE: lambda: score(True),
        "explain, leave_one_out": lambda: c2s.tl.explain(adata, model),
        "explain, integrated_gradient": lambda: c2s.tl.explain(
            adata, model, method="integrated_gradient"
        ),
        "explain, gradient": lambda: c2s.tl.explain(adata, model, method="gradient"),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, work in runs.items():
            times[name].append(seconds(work))
    result = {}
    for name, values in times.items():
        rates = [options.cells / t for t in values]
        ratios = [a / t for a, t in zip(times[ALONE], values, strict=True)]
        result[name] = {"cells_per_second": rates, "times_as_fast": ratios}
        print(
            f"{name:30s} {statistics.median(rates):6.2f} cells/s ({min(rates):.2f}–{max(rates):.2f}), "
            f"{statistics.median(ratios):.2f} times as fast as each alone ({min(ratios):.2f}–{max(ratios):.2f})"
        )
    if options.json:
        options.json.write_text(json.dumps({"difference": float(difference), **result}, indent=1))


if __name__ == "__main__":
    main()
