"""The demo's recipe over several seeds of split, weights and examples: annotation and generation with intervals.

    python benchmarks/demo_seeds.py --seeds 5 --out runs/demo_seeds

Each seed takes about six minutes on two cores and leaves its whole demo folder; a rerun skips seeds that are
complete. Prints a Markdown table and writes `summary.json`. The numbers in RESULTS.md come from here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import t

from c2s.studies.demo import demo_recipe, run_demo

ROWS = {
    "annotation accuracy": ("annotation", "accuracy"),
    "annotation macro F1": ("annotation", "macro_f1"),
    "logistic regression accuracy": ("annotation", "baselines", "logistic_regression", "accuracy"),
    "kNN accuracy": ("annotation", "baselines", "knn", "accuracy"),
    **{
        f"{name} {who}": path
        for name in ("scfid", "energy_distance", "mmd2", "c2st")
        for who, path in (
            ("model", ("generation", name)),
            ("independent", ("generation", "baselines", "independent", name)),
            ("ceiling", ("generation", f"{name}_ceiling")),
        )
    },
    "nearest training cell, generated": ("generation", "nearest_training_distance"),
    "nearest training cell, real": ("generation", "nearest_training_distance_real"),
    "type recovered, generated": ("generation", "type_recovered"),
    "type recovered, real": ("generation", "type_recovered_real"),
    "valid": ("generation", "valid_fraction"),
    "none twice": ("generation", "unique_fraction"),
    "exactly K": ("generation", "exact_k_fraction"),
    "temperature": ("generation", "temperature"),
    "inverse R²": ("inverse", "r2"),
    "training seconds": ("training", "seconds"),
    "seconds": ("seconds",),
}


def value(metrics: dict, path: tuple[str, ...]) -> float:
    for key in path:
        metrics = metrics[key]
    return float(metrics)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/demo_seeds"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in range(args.seeds):
        folder = args.out / f"seed{seed}"
        if not (folder / "metrics.json").is_file():
            run_demo(folder, demo_recipe(seed=seed), keep_model=False, device="cpu")
        runs.append(json.loads((folder / "metrics.json").read_text()))
        print(f"seed {seed}: accuracy {runs[-1]['annotation']['accuracy']:.4f}", flush=True)
    summary = {}
    print("\n| | mean | 95 % interval of the mean | by seed |\n| --- | --- | --- | --- |")
    for name, path in ROWS.items():
        x = np.array([value(m, path) for m in runs])
        half = (
            t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
            if len(x) > 1
            else float("nan")
        )
        summary[name] = {"mean": x.mean(), "half_width": half, "values": x.tolist()}
        print(f"| {name} | {x.mean():.4f} | ± {half:.4f} | {', '.join(f'{v:.4f}' for v in x)} |")
    wins: dict[str, list[str]] = {}
    for m in runs:
        for row in m["generation"]["per_type"]:
            if row["winner"]:
                wins.setdefault(f"{row['cell_type']} ({row['metric']})", []).append(row["winner"])
    print("\n| type | model wins | of |\n| --- | --- | --- |")
    for name, winners in wins.items():
        print(f"| {name} | {winners.count('model')} | {len(winners)} |")
    summary["per_type"] = wins
    (args.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
