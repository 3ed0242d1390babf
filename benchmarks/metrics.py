"""How fast the metrics are, beside what they are measured against, in one process.

    python benchmarks/metrics.py --json metrics.json

Kendall's tau-b of many cells at once, beside a loop over `scipy.stats.kendalltau`, for rows like those that
the metric is used on: the score of a gene is minus its rank in a sentence, many genes are missing and share the
lowest, and the truth is expression with ties at 0 (SPEC §7.5). Forty genes are those of the paper's apoptosis
programme, 95 those of its interferon programme, 978 the landmark genes of L1000. And scFID of two samples of
100,000 cells in 512 dimensions, beside the two covariance products that it cannot do without.

Before anything is timed, the values of both sides are compared. Then rounds follow each other, in each of which
everything is run once, so that whatever else the machine is doing meets both sides; a ratio is taken within its
round. Compiling is done before and told apart. It takes about a minute on two cores, and 2 GB of memory.
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

TAU_TARGET = 100  # times a SciPy loop, on a gene programme
SCFID_TARGET = 2  # times the covariance products


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and return the exit code: 1 when the two sides differ."""
    options = parse(arguments)
    import numba

    from c2s.common.files import atomic_file

    numba.set_num_threads(min(options.threads, numba.config.NUMBA_NUM_THREADS))
    from ranking import machine

    result: dict[str, Any] = {"machine": machine(), "options": options_of(options), "rows": []}
    print(describe(result["machine"]))
    result["compile_seconds"] = compile_seconds()
    print(f"compiling, once for a machine and left out below: {result['compile_seconds']:.1f} s\n")
    for genes in options.genes:
        result["rows"].append(tau(genes, options))
        print(line(result["rows"][-1]), flush=True)
    result["rows"].append(frechet(options))
    print(line(result["rows"][-1]))
    result["machine"]["load_after"] = os.getloadavg()[0]
    if options.json:
        with atomic_file(options.json) as path:
            path.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--genes", type=int, nargs="+", default=[40, 95, 200, 978], help="genes of tau-b's rows"
    )
    parser.add_argument("--rows", type=int, default=20_000, help="rows of tau-b, at 40 genes")
    parser.add_argument("--scipy-rows", type=int, default=1000, help="of them, rows for SciPy")
    parser.add_argument("--cells", type=int, default=100_000, help="cells of each sample of scFID")
    parser.add_argument("--dimensions", type=int, default=512, help="dimensions of scFID")
    parser.add_argument("--rounds", type=int, default=7, help="how often tau-b is run")
    parser.add_argument("--scfid-rounds", type=int, default=3, help="how often scFID is run")
    parser.add_argument("--threads", type=int, default=2, help="threads for the compiled kernels")
    parser.add_argument("--seed", type=int, default=0, help="draws the data")
    parser.add_argument("--json", type=Path, help="write the result and the machine's facts here")
    options = parser.parse_args(arguments)
    counts = ("rows", "scipy_rows", "cells", "dimensions", "rounds", "scfid_rounds", "threads")
    for name in counts:
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return options


def options_of(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if name != "json"}


def compile_seconds() -> float:
    """Run the compiled kernels on a few rows; return how long that took, in seconds."""
    import numpy as np

    from c2s.metrics import kendall_tau_b

    start = time.perf_counter()
    for genes in (3, 300):
        kendall_tau_b(np.zeros((2, genes)), np.zeros((2, genes)))
    return time.perf_counter() - start


def tau(genes: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure tau-b on rows of `genes` genes, seconds a row."""
    import numpy as np
    from scipy.stats import kendalltau

    from c2s.common.seeds import generator
    from c2s.metrics import kendall_tau_b

    rng = generator(options.seed, "tau-b", genes)
    n = max(options.scipy_rows, options.rows * 40 // genes)
    truth = np.log1p(rng.poisson(0.8, size=(n, genes)) * rng.lognormal(size=(n, 1)))
    answer = truth + rng.normal(size=truth.shape)
    places = answer.argsort(axis=1).argsort(axis=1)
    answer = np.where(places < genes // 2, 0.0, places)  # the lower half was not named
    few = slice(0, options.scipy_rows)

    def theirs() -> Any:
        pairs = zip(answer[few], truth[few], strict=True)
        return np.array([kendalltau(a, b).statistic for a, b in pairs])

    gap = float(np.abs(kendall_tau_b(answer[few], truth[few]) - theirs()).max())
    if not gap < 1e-6:
        raise SystemExit(f"tau-b of {genes} genes: the two sides differ by {gap}")
    runs = {
        "c2s": (n, lambda: kendall_tau_b(answer, truth)),
        "scipy loop": (options.scipy_rows, theirs),
    }
    seconds = timed(runs, options.rounds)
    ratios = [b / a for a, b in zip(seconds["c2s"], seconds["scipy loop"], strict=True)]
    return {
        "name": f"tau-b, {genes} genes",
        "unit": "µs a row",
        "scale": 1e6,
        "rows": n,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratio": spread(ratios),
        "says": f"times a SciPy loop (wanted on a programme: {TAU_TARGET})",
        "difference": gap,
    }


def frechet(options: argparse.Namespace) -> dict[str, Any]:
    """Measure scFID beside the two covariance products, seconds."""
    from c2s.common.seeds import generator
    from c2s.metrics import scfid

    rng = generator(options.seed, "scFID")
    mix = rng.normal(size=(options.dimensions, options.dimensions)) / options.dimensions**0.5
    samples = [
        rng.standard_normal(size=(options.cells, options.dimensions)) @ mix + shift
        for shift in (0.0, 0.05)
    ]

    def products() -> None:
        for sample in samples:
            centred = sample - sample.mean(axis=0)
            centred.T @ centred / (
                len(sample) - 1
            )  # syrk: half of the products of a general matrix

    few = [sample[: 4 * options.dimensions] for sample in samples]
    exact, streamed = scfid(*few), streamed_scfid(few)
    gap = abs(exact - streamed) / exact
    if not gap < 1e-6:
        raise SystemExit(f"scFID: the exact and the streamed value differ by {gap} of it")
    runs = {
        "c2s": (1, lambda: scfid(*samples)),
        "two covariances": (1, products),
        "c2s, batches of 10,000": (1, lambda: streamed_scfid(samples)),
    }
    seconds = timed(runs, options.scfid_rounds)
    products_ = seconds["two covariances"]
    return {
        "name": f"scFID, 2 x {options.cells:,} cells x {options.dimensions} dimensions",
        "unit": "s",
        "scale": 1,
        "rows": options.cells,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratio": spread([a / b for a, b in zip(seconds["c2s"], products_, strict=True)]),
        "says": f"times the cost of the two covariances (wanted: at most {SCFID_TARGET})",
        "difference": gap,
    }


def streamed_scfid(samples: list[Any]) -> float:
    from c2s.metrics import Moments, scfid_from_moments

    gathered = []
    for sample in samples:
        moments = Moments()
        for start in range(0, len(sample), 10_000):
            moments.update(sample[start : start + 10_000])
        gathered.append(moments)
    return scfid_from_moments(*gathered)


def timed(runs: dict[str, tuple[int, Callable[[], object]]], rounds: int) -> dict[str, list[float]]:
    """Run everything once in each round; return seconds by name, divided by the number of rows of each."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _, run in runs.values():
        run()  # warm: memory, caches
    for _ in range(rounds):
        for name, (rows, run) in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - start) / rows)
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


# --- saying it -----------------------------------------------------------------------------------


def line(row: dict[str, Any]) -> str:
    times = ", ".join(
        f"{name} {values['median'] * row['scale']:,.2f} "
        f"({values['min'] * row['scale']:,.2f}–{values['max'] * row['scale']:,.2f})"
        for name, values in row["seconds"].items()
    )
    ratio = row["ratio"]
    return (
        f"{row['name']}: {times} {row['unit']}\n    {ratio['median']:,.1f} "
        f"({ratio['min']:,.1f}–{ratio['max']:,.1f}) {row['says']}"
    )


def describe(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    lines = [f"{facts['cpu']}, {facts['cores']} cores; {versions}"]
    if facts["load_before"] > 1:
        lines.append(f"the machine is busy (load {facts['load_before']:.1f})")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
