"""What does alignment with biological rewards change? Five seeds on the pancreas cells, measured on held-out cells.

    python benchmarks/alignment.py --models runs/demo_seeds [--seeds 5] [--steps 40] [--arms …] [--out study.jsonl]

`--models` holds the demos that benchmarks/demo_seeds.py leaves (seed0, seed1, …): each has a split, a supervised `mini`
model and its gene vocabulary of its own. Every arm starts from that model and asks for each cell type of the training
cells equally often; test cells are looked at once, at the end. The rate and the number of steps of the energy distance
were chosen on validation cells of seed 0 (`--validation`), of which some are test cells of the other seeds, whose
splits are drawn anew. −MSE has three times that rate, so that what it does is plain after as many steps: its columns
are not to be compared with that of the energy distance as rewards alone. Nothing else was tuned: the weight of
diversity in expression is R/20, with R = 4.8 the mean distance of two training cells of a type in the 20 components
(seed 0): a generator that can only scale the spread of real cells by s gets most for s = 0.94 then. `beta_allowed` was
looked at on the same validation cells at 0.1 and 1.

Measured before and after, two generated cells for each test cell, of its type:

- energy distance and scFID, all types together and the mean over types of at least five cells;
- the share of valid words where nothing is forbidden (under the constraint all are), and of cells that are there once;
- diversity (mean distance within a type, as a share of that of real cells), and overlap with the nearest training cell
  beside that of real test cells;
- −MSE itself, its mean over all pairs of a generated and a real cell of a type;
- accuracy of annotation, which nobody rewards.

"one cell a type" is what −MSE is highest for among policies that write one cell only: of 64 cells that the model writes
of a type, the one with the highest mean reward on training cells, again and again. No policy is trained for it.

Printed are means over seeds with 95 % intervals (Student's t) of the value after and of its difference from before.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from scipy.stats import t as student

MSE = {"name": "negative_mse"}
BEFORE, ONE_CELL = "before", "one cell a type"
#: Rewards, β, and the learning rate. −MSE gets a higher one, at which what it does is plain after as many steps.
ARMS: dict[str, dict[str, Any]] = {
    "energy distance": {"rewards": ["energy_distance"], "beta": 0.005, "rate": 1e-4},
    "energy distance, β allowed 1": {
        "rewards": ["energy_distance"], "beta": 0.005, "beta_allowed": 1.0, "rate": 1e-4,
    },
    "−MSE, β 0.005": {"rewards": [MSE], "beta": 0.005, "rate": 3e-4},
    "−MSE, β 0.1": {"rewards": [MSE], "beta": 0.1, "rate": 3e-4},
    "−MSE and diversity": {
        "rewards": [MSE, {"name": "diversity", "weight": 1.0}], "beta": 0.005, "rate": 3e-4,
    },
    "−MSE and diversity in expression": {
        "rewards": [MSE, {"name": "diversity", "distance": "encoder", "weight": 0.24}], "beta": 0.005, "rate": 3e-4,
    },
    "−MSE, 200 steps": {"rewards": [MSE], "beta": 0.005, "rate": 3e-4, "steps": 200},
}  # fmt: skip
MEASURES = (
    "negative_mse", "energy_distance", "scfid", "energy_distance_by_type", "scfid_by_type", "valid_if_free", "unique",
    "diversity", "nearest_overlap", "accuracy",
)  # fmt: skip
#: Types of fewer cells are not measured on their own.
FEWEST = 5
#: Cells that are generated for each held-out one.
TIMES = 2


def one(arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Align one model and measure it, or only measure it (`BEFORE`)."""
    import torch
    from transformers import PrinterCallback

    torch.set_num_threads(1)
    from c2s.models.directory import load_model
    from c2s.studies.train import TrainRecipe, load_data, prepare
    from c2s.training.grpo.opening import open_trainer
    from c2s.training.grpo.recipe import AlignmentRecipe

    folder = options.models / f"seed{seed}"
    demo = TrainRecipe.parse(json.loads((folder / "recipe.json").read_text("utf-8")), "the demo")
    cells = prepare(load_data(demo), demo)
    model = load_model(folder / "model", device="cpu")
    part = "val" if options.validation else "test"
    if arm in (BEFORE, ONE_CELL):
        found = measured(model, cells, demo, part, one_cell=arm == ONE_CELL)
        return {"arm": arm, "seed": seed, "part": part, "measures": found}
    steps = ARMS[arm].get("steps", options.steps)
    recipe = AlignmentRecipe.parse(
        {
            "stage": "grpo", "base": {"model": "given"}, "data": {"corpus": "in memory"},
            "policy": {
                "group": options.group, "beta": ARMS[arm]["beta"], "answers_per_pass": 64,
                "beta_allowed": ARMS[arm].get("beta_allowed", 0.0),
            },
            "rewards": ARMS[arm]["rewards"],
            "optimisation": {
                "steps": steps, "batch_size": options.prompts, "learning_rate": ARMS[arm]["rate"],
                "schedule": "constant", "warmup": 5, "weight_decay": 0.0, "betas": (0.9, 0.99),
            },
            "evaluation": {"every": steps, "cells": 0, "labels": 0},
            "save_every": steps, "seed": seed,
        },
        "the study",
    )  # fmt: skip
    started = time.perf_counter()
    with TemporaryDirectory() as scratch:
        trainer = open_trainer(
            recipe, model, known(cells, "train", demo), known(cells, "val", demo), Path(scratch), device="cpu"
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    seconds = time.perf_counter() - started
    history = [h for h in trainer.state.log_history if "reward" in h]
    curve = {
        name: [h.get(name) for h in history]
        for name in ("reward", "kl", "entropy", "watch/diversity", "watch/scfid", "watch/energy_distance")
    }  # fmt: skip
    parts = {
        n: float(np.mean([h[f"time/{n}"] for h in history])) for n in ("rollout", "reward", "watch")
    }
    return {
        "arm": arm, "seed": seed, "part": part, "measures": measured(model, cells, demo, part), "steps": steps,
        "group": options.group, "prompts": options.prompts, "rate": ARMS[arm]["rate"], "seconds": round(seconds, 1),
        "seconds_a_step": {**parts, "all": seconds / steps}, "curve": curve,
    }  # fmt: skip


def known(cells: Any, part: str, demo: Any) -> Any:
    """Return the cells of a part of the demo's split as alignment takes them."""
    from c2s.corpus.recipe import FIELDS
    from c2s.training.grpo.questions import CorpusCells

    rows = cells.rows(part)
    fields = {name: np.full(len(rows), None, dtype=object) for name in FIELDS}
    fields["cell_type"] = cells.labels[rows].astype(object)
    fields["organism"] = np.asarray(cells.organism)[rows].astype(object)
    return CorpusCells(cells.ranked(rows, demo.top_k, demo.seed), fields)


def measured(
    model: Any, cells: Any, demo: Any, part: str, one_cell: bool = False
) -> dict[str, float]:
    """Return what the model's cells, or one of each type again and again, and its annotations are worth held-out."""
    from c2s.analysis.annotate import label_probabilities
    from c2s.analysis.generate import generate_cells
    from c2s.decoding.sampling import Sampling
    from c2s.evaluate.generation import Space
    from c2s.metrics import energy_distance, scfid
    from c2s.studies.train import load_data
    from c2s.training.rewards.shares import mean_distance
    from c2s.training.rewards.space import shared_genes

    rows, train = cells.rows(part), cells.rows("train")
    types = cells.labels[rows]
    training = cells.ranked(train, demo.top_k, demo.seed)
    space = Space.fit(training, cells.inverse, seed=demo.seed)
    truth = cells.ranked(rows, demo.top_k, demo.seed)
    wanted = np.repeat(types, TIMES)
    made = generate_cells(
        model, wanted, np.repeat(np.asarray(cells.organism)[rows], TIMES), top_k=demo.top_k,
        sampling=Sampling(temperature=1.0, top_p=1.0, seed=demo.seed),
    )  # fmt: skip
    if one_cell:
        made = best_alone(model, cells, demo, wanted, space, training)
    real, ours = space.embed(truth), space.embed(made)
    by_type: dict[str, list[float]] = {"energy_distance": [], "scfid": [], "diversity": []}
    rewarded = np.empty(len(wanted))
    overlap, overlap_real = [], []
    for name in np.unique(types):
        own, of_it = np.flatnonzero(types == name), np.flatnonzero(wanted == name)
        seen = training.take(np.flatnonzero(cells.labels[train] == name))
        if len(seen):
            overlap.append(shared_genes(made.take(of_it), seen).max(1))
            overlap_real.append(shared_genes(truth.take(own), seen).max(1))
        rewarded[of_it] = mean_reward(ours[of_it], real[own])
        if len(own) >= FEWEST:
            by_type["energy_distance"].append(energy_distance(real[own], ours[of_it]))
            by_type["scfid"].append(scfid(real[own], ours[of_it]))
            by_type["diversity"].append(mean_distance(ours[of_it]) / mean_distance(real[own]))
    labels = np.array(model.known("cell_type"))
    found = labels[
        label_probabilities(load_data(demo)[rows].copy(), model, labels.tolist()).argmax(1)
    ]
    text = made.to_text().to_pylist()
    return {
        "negative_mse": float(rewarded.mean()),
        "energy_distance": energy_distance(real, ours),
        "scfid": scfid(real, ours),
        "energy_distance_by_type": float(np.mean(by_type["energy_distance"])),
        "scfid_by_type": float(np.mean(by_type["scfid"])),
        "diversity": float(np.mean(by_type["diversity"])),
        "valid_if_free": valid_if_free(model, cells, demo),
        "unique": float(len(set(text)) / len(text)),
        "nearest_overlap": float(np.mean(np.concatenate(overlap))),
        "nearest_overlap_real": float(np.mean(np.concatenate(overlap_real))),
        "accuracy": float((found == types).mean()),
    }


def mean_reward(generated: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return the −MSE of each generated cell, a mean over the real cells that it may be paired with."""
    from scipy.spatial.distance import cdist

    return -cdist(generated, real, "sqeuclidean").mean(axis=1) / real.shape[1]


def best_alone(
    model: Any, cells: Any, demo: Any, wanted: np.ndarray, space: Any, training: Any
) -> Any:
    """Return for each wanted type the one cell that −MSE is highest for, as often as it is wanted."""
    from c2s.analysis.generate import generate_cells
    from c2s.decoding.sampling import Sampling

    types, which = np.unique(wanted, return_inverse=True)
    train = cells.rows("train")
    organism = np.asarray(cells.organism)[train][0]
    drawn = np.repeat(types, 64)
    made = generate_cells(
        model, drawn, np.repeat(organism, len(drawn)), top_k=demo.top_k,
        sampling=Sampling(temperature=1.0, top_p=1.0, seed=demo.seed + 1),
    )  # fmt: skip
    places, known = space.embed(made), space.embed(training)
    best = []
    for name in types:
        of_it = np.flatnonzero(drawn == name)
        real = known[np.flatnonzero(cells.labels[train] == name)]
        best.append(of_it[mean_reward(places[of_it], real).argmax()] if len(real) else of_it[0])
    return made.take(np.array(best)[which])


def valid_if_free(model: Any, cells: Any, demo: Any) -> float:
    """Return the share of words that name a known gene for the first time, where the model writes whatever it likes."""
    from c2s.training.grpo.questions import Questions
    from c2s.training.grpo.recipe import PolicyRecipe

    questions = Questions(
        model, PolicyRecipe(constrained=False), known(cells, "train", demo), demo.seed
    )
    numbers = list(range(64))
    found = questions.read(numbers, questions.write(numbers, numbers, 1.0))
    good, bad = found.cells.lengths.sum(), (found.repeated + found.unknown).sum()
    return float(good / (good + bad))


def interval(values: list[float]) -> str:
    """Return the mean with half the width of its 95 % interval."""
    x = np.array(values)
    half = (
        student.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 else np.nan
    )
    return f"{x.mean():.4f} ± {half:.4f}"


def report(results: list[dict[str, Any]]) -> None:
    """Print what the arms come to, and by how much it differs from before."""
    found = {(r["arm"], r["seed"]): r["measures"] for r in results}
    arms = [arm for arm in (*ARMS, ONE_CELL) if any(known == arm for known, _ in found)]
    print("\n| measure | before | " + " | ".join(arms) + " |")
    seeds = sorted({seed for _, seed in found})
    for measure in MEASURES:
        line = [
            measure,
            interval([found[BEFORE, s][measure] for s in seeds if (BEFORE, s) in found]),
        ]
        for arm in arms:
            own = [s for s in seeds if (arm, s) in found and (BEFORE, s) in found]
            after = [found[arm, s][measure] for s in own]
            change = [found[arm, s][measure] - found[BEFORE, s][measure] for s in own]
            line.append(f"{interval(after)} ({interval(change)})" if own else "")
        print("| " + " | ".join(line) + " |")
    curves = {(r["arm"], r["seed"]): r["curve"] for r in results if "curve" in r}
    for arm in arms:
        own = [curves[arm, s] for s in seeds if (arm, s) in curves]
        if own:
            rise = [float(np.mean(c["reward"][-10:]) - np.mean(c["reward"][:10])) for c in own]
            kl = [float(np.mean(c["kl"][-10:])) for c in own]
            print(
                f"{arm}: reward of the last 10 steps less the first 10 {interval(rise)}, KL {interval(kl)}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", type=Path, required=True, help="folder of demos: seed0, seed1, …"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--group", type=int, default=32)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=2, help="models that are aligned at a time")
    parser.add_argument("--arms", nargs="+", choices=[*ARMS, ONE_CELL], default=[*ARMS, ONE_CELL])
    parser.add_argument(
        "--validation", action="store_true", help="measure on validation cells, to choose settings"
    )
    parser.add_argument("--out", type=Path, help="gets a line of JSON for each model")
    options = parser.parse_args()
    results = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        runs = [
            pool.submit(one, arm, seed, options)
            for seed in options.seeds
            for arm in (BEFORE, *options.arms)
        ]
        for run in as_completed(runs):
            results.append(run.result())
            shown = {k: v for k, v in results[-1].items() if k != "curve"}
            print(json.dumps(shown, ensure_ascii=False), flush=True)
            if options.out:
                with options.out.open("a", encoding="utf-8") as handle:
                    handle.write(json.dumps(results[-1], ensure_ascii=False) + "\n")
    report(results)


if __name__ == "__main__":
    main()
