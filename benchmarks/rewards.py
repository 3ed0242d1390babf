"""How long rewards take, in ms an answer, and closed forms beside measuring each group without each cell.

    python benchmarks/rewards.py --json rewards.json

A step of 8 groups of 32 answers of 100 genes, on the packaged pancreas: real cells of beta and alpha are those that are
compared with (all of a type), in 20 principal components; answers are other cells of these types with a tenth of their
genes exchanged. Every reward is given rollouts that nothing was computed of, so that its time holds the way from
sentences to places; "all together" shares it, as a run does. Then the shares of energy distance and scFID, beside brute
force; values of both sides are compared before anything is timed.

Rounds follow each other, in each of which everything is run once; a ratio is taken within its round. BERTScore is timed
where --bert names a folder. It takes about half a minute on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TYPES = ("beta", "alpha")
PROGRAMME = 40  # genes of the programme, as many as the paper's (SPEC §7.2)
ANSWER = "the cell is a beta cell of the islets, which secretes insulin when glucose rises"


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and return the exit code: 1 when the two sides differ."""
    options = parse(arguments)
    from c2s.common.files import atomic_file
    from ranking import machine

    result: dict[str, Any] = {"machine": machine(), "options": {**vars(options), "json": None}}
    step = Step(options)
    result["rewards"] = rewards(step, options)
    result["shares"] = [shares(name, step, options) for name in ("energy_distance", "scfid")]
    result["machine"]["load_after"] = os.getloadavg()[0]
    if options.json:
        with atomic_file(options.json) as path:
            path.write_text(json.dumps(result, indent=2, default=str) + "\n", "utf-8")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--group", type=int, default=32, help="answers of a group")
    parser.add_argument("--groups", type=int, default=8, help="groups of a step")
    parser.add_argument("--genes", type=int, default=100, help="genes of an answer")
    parser.add_argument("--dimensions", type=int, default=20, help="principal components")
    parser.add_argument("--rounds", type=int, default=7, help="how often everything is run")
    parser.add_argument("--bert", type=Path, help="Hugging Face folder of a BERT, for bertscore")
    parser.add_argument("--layer", type=int, default=9, help="its layer")
    parser.add_argument("--seed", type=int, default=0, help="draws the answers")
    parser.add_argument("--json", type=Path, help="write the result and the machine's facts here")
    options = parser.parse_args(arguments)
    if min(options.group, options.groups, options.genes) < 3:
        parser.error("--group, --groups and --genes must be at least 3")
    return options


class Step:
    """Real cells, a space and the parts of a step's rollouts."""

    def __init__(self, options: argparse.Namespace) -> None:
        import numpy as np

        import c2s
        from c2s.training.rewards import RealCells, open_space

        adata = c2s.datasets.pancreas()
        labels = adata.obs["cell_type"].astype(str).to_numpy()
        adata = adata[np.isin(labels, TYPES)]
        labels = adata.obs["cell_type"].astype(str).to_numpy()
        cells = c2s.pp.cell_sentences(adata, top_k=options.genes)
        self.inverse = c2s.pp.fit_inverse(adata)
        half = np.arange(len(cells)) % 2 == 0
        codes = np.array([TYPES.index(label) for label in labels])
        known = cells.take(half)
        expression = self.inverse.expression(known)
        self.real = RealCells(known, expression, list(TYPES), codes[half])
        self.others, self.codes = cells.take(~half), codes[~half]
        self.space = open_space(f"pca:{options.dimensions}", self.real, self.inverse)
        self.options = options
        often = np.bincount(known.genes, minlength=len(known.vocabulary)).argsort()[::-1]
        self.programme = [known.vocabulary.words[column] for column in often[:PROGRAMME]]

    def rollouts(self) -> Any:
        """Return answers that nothing was computed of."""
        import numpy as np

        from c2s.cells.ranked import RankedCells
        from c2s.common.seeds import generator
        from c2s.training.rewards import Rollouts

        size, groups = self.options.group, self.options.groups
        rng = generator(self.options.seed, "answers")
        group = np.repeat(np.arange(groups), size)
        condition = group % len(TYPES)
        columns = []
        for code in condition:
            row = self.others.to_columns(rng.choice(np.flatnonzero(self.codes == code))).copy()
            at = rng.random(len(row)) < 0.1
            absent = np.setdiff1d(np.arange(len(self.others.vocabulary)), row)
            row[at] = rng.choice(absent, at.sum(), replace=False)
            columns.append(row)
        cells = RankedCells.from_columns(columns, self.others.vocabulary)
        truth = [rng.choice(self.real.rows(int(code))) for code in condition]
        nothing = np.zeros(len(group), np.int64)
        texts = [f"{ANSWER}, answer {i}" for i in range(len(group))]
        return Rollouts(
            group, condition, texts, cells, np.full(len(group), self.options.genes), nothing, nothing,
            np.array(truth), [ANSWER] * len(group), self.options.seed,
        )  # fmt: skip


def rewards(step: Step, options: argparse.Namespace) -> dict[str, Any]:
    """Time every reward, seconds an answer."""
    from dataclasses import replace

    from c2s.training.rewards import REWARDS, combined, open_rewards, read_reward, watch

    fields: dict[str, dict[str, Any]] = {"kendall_tau": {"genes": step.programme}}
    if options.bert:
        fields["bertscore"] = {"folder": str(options.bert.resolve()), "layer": options.layer}
    recipes = [
        read_reward({"name": name, **fields.get(name, {})})
        for name in REWARDS
        if name != "bertscore" or options.bert
    ]
    opened = open_rewards(recipes, step.real, step.inverse, step.real.cells.vocabulary, step.space)
    answers = step.rollouts()
    runs: dict[str, Callable[[], object]] = {
        reward.name: lambda reward=reward: reward.function(replace(answers)) for reward in opened
    }
    runs["all together"] = lambda: combined(opened, replace(answers))
    runs["watch"] = lambda: watch(replace(answers), step.real, step.space)
    seconds = timed(runs, options.rounds)
    print(
        f"{options.groups} groups of {options.group} answers of {options.genes} genes, ms an answer:"
    )
    result = {}
    for name, values in seconds.items():
        result[name] = spread([1000 * value / len(answers) for value in values])
        print(f"  {name:16s} {said(result[name])}", flush=True)
    return result


def shares(name: str, step: Step, options: argparse.Namespace) -> dict[str, Any]:
    """Time the shares of one group, beside measuring it without each cell."""
    import numpy as np

    from c2s.metrics import METRICS
    from c2s.training.rewards.shares import energy_shares, scfid_shares

    share = {"energy_distance": energy_shares, "scfid": scfid_shares}[name]
    measure: Any = METRICS[name].function
    generated = step.space.places(step.rollouts())[: options.group]
    real = step.space.real_places(step.real)[step.real.rows(0)]

    def brute() -> Any:
        n = len(generated)
        rest = [measure(real, np.delete(generated, i, axis=0)) for i in range(n)]
        return -n * measure(real, generated) + (n - 1) * np.array(rest)

    gap = float(np.abs(share(generated, real) - brute()).max() / np.abs(brute()).max())
    if not gap < 1e-6:
        raise SystemExit(f"{name}: shares differ by {gap} from brute force")
    seconds = timed({"c2s": lambda: share(generated, real), "brute": brute}, options.rounds)
    ratio = spread([b / a for a, b in zip(seconds["c2s"], seconds["brute"], strict=True)])
    print(
        f"shares of {name}, one group beside {len(real)} real cells: {said(ratio)} times brute force"
    )
    return {"name": name, "ratio": ratio, "difference": gap}


def timed(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Run everything once in each round; return seconds by name."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()  # warm: compiled kernels, what real cells have once
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def said(values: dict[str, float]) -> str:
    return f"{values['median']:,.4f} ({values['min']:,.4f}–{values['max']:,.4f})"


if __name__ == "__main__":
    sys.exit(main())
