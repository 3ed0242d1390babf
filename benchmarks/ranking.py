"""How fast cells become sentences, beside the `cell2sentence` package, in one process.

    python benchmarks/ranking.py --json ranking.json

It needs the package that it compares with, and what that imports:

    pip install --no-deps cell2sentence==1.2.0
    pip install datasets plotnine tqdm

Two matrices of raw counts are held in memory: the pancreas data, repeated with new cell names, and
synthetic cells of 2,000–2,800 expressed genes. Before anything is timed, the sentences of both
sides are compared: the same genes in every cell, counts that never rise. Then rounds follow each
other, and in each round everything is run once, so that whatever else the machine is doing meets
both sides. A ratio is taken within its round. Compiling is done before, in an empty cache, and told
apart. README.md in this folder says how to read the result.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sp
    from anndata import AnnData

    from c2s.cells.ranked import RankedCells

TOP_K = 200
MISSING = (
    "this benchmark compares with the cell2sentence package, and Python found no module {name!r}; "
    "install it with: pip install --no-deps cell2sentence==1.2.0, "
    "and what it imports with: pip install datasets plotnine tqdm"
)

# What is timed, in the order of a round. Theirs stands between ours.
RANKS_TOP = f"c2s ranks, top {TOP_K}"
RANKS_ALL = "c2s ranks, all genes"
TEXT = f"c2s Arrow text of the top {TOP_K}, from ranks"
RANKS_TEXT = f"c2s ranks and Arrow text, top {TOP_K}"
VERB = f"c2s.pp.cell_sentences, top {TOP_K}"
UPSTREAM = "cell2sentence generate_sentences"
FLOOR = "reading the matrix once"


@dataclass(frozen=True)
class Cells:
    """A matrix for both sides.

    Attributes
    ----------
    name
        What the cells are.
    adata
        Raw counts, CSR, which this package ranks.
    part
        Some of the same cells for `cell2sentence`, whose rate does not depend on their number.
    rows : int array
        Which cells of `adata` they are.
    """

    name: str
    adata: AnnData
    part: AnnData
    rows: np.ndarray


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and return the exit code."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as cache:
        # Read by numba when it is imported: kernels are compiled anew, and the time is known.
        os.environ["NUMBA_CACHE_DIR"] = cache
        try:
            import cell2sentence.utils as upstream
        except ModuleNotFoundError as error:
            print(MISSING.format(name=error.name), file=sys.stderr)
            return 2
        return compare(options, upstream)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--cells", type=int, default=20_000, help="cells that c2s ranks at a time")
    parser.add_argument(
        "--upstream-cells", type=int, default=1_000, help="cells that cell2sentence ranks at a time"
    )
    parser.add_argument("--rounds", type=int, default=7, help="how often everything is run")
    parser.add_argument("--threads", type=int, default=2, help="threads for the compiled kernels")
    parser.add_argument(
        "--seed", type=int, default=0, help="draws the synthetic cells and the ties"
    )
    parser.add_argument("--json", type=Path, help="write the result and the machine's facts here")
    options = parser.parse_args(arguments)
    for name in ("cells", "upstream_cells", "rounds", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    options.upstream_cells = min(options.upstream_cells, options.cells)
    return options


def compare(options: argparse.Namespace, upstream: Any) -> int:
    """Check, time and report; return the exit code."""
    import numba

    from c2s.common.files import atomic_file

    if options.threads > numba.config.NUMBA_NUM_THREADS:
        print(
            f"--threads {options.threads}: numba may use {numba.config.NUMBA_NUM_THREADS} here",
            file=sys.stderr,
        )
        return 2
    numba.set_num_threads(options.threads)
    result: dict[str, Any] = {"machine": machine(), "options": options_of(options), "matrices": []}
    print(describe(result["machine"], options.threads))
    result["compile_seconds"] = compile_seconds()
    print(f"compiling, once for a machine and left out below: {result['compile_seconds']:.1f} s")
    for make in (pancreas_cells, synthetic_cells):
        cells = make(options)
        problem = difference(cells, upstream, options.seed)
        if problem:
            print(f"{cells.name}: the two sides differ: {problem}", file=sys.stderr)
            return 1
        entry = measure(cells, upstream, options)
        result["matrices"].append(entry)
        print(table(entry))
    result["machine"]["load_after"] = os.getloadavg()[0]
    if options.json:
        with atomic_file(options.json) as path:
            path.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return 0


def options_of(options: argparse.Namespace) -> dict[str, int]:
    return {name: value for name, value in vars(options).items() if name != "json"}


# --- the cells -----------------------------------------------------------------------------------


def pancreas_cells(options: argparse.Namespace) -> Cells:
    """The packaged pancreas data, repeated."""
    import c2s

    adata = c2s.datasets.pancreas()
    return repeated("pancreas", adata.X, adata.var_names.to_numpy(), options)


def synthetic_cells(options: argparse.Namespace) -> Cells:
    """Cells of 2,000–2,800 genes: as likely as in the pancreas data, with counts drawn from it."""
    import numpy as np
    import scipy.sparse as sp

    import c2s
    from c2s.common.seeds import generator

    adata = c2s.datasets.pancreas()
    rng = generator(options.seed, "benchmark", "synthetic")
    detected = adata.X.getnnz(axis=0).astype(np.float64)
    sizes = rng.integers(2000, 2801, size=min(1000, options.cells))
    columns = []
    for size in sizes:
        # The largest log(u) / weight are a weighted sample without replacement (Efraimidis and
        # Spirakis 2006, "Weighted random sampling with a reservoir").
        keys = np.log(rng.random(len(detected))) / np.maximum(detected, 1e-9)
        columns.append(np.sort(np.argpartition(keys, -size)[-size:]).astype(np.int32))
    matrix = sp.csr_matrix(
        (
            rng.choice(adata.X.data, size=int(sizes.sum())),
            np.concatenate(columns),
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32),
        ),
        shape=(len(sizes), adata.n_vars),
    )
    return repeated("synthetic", matrix, adata.var_names.to_numpy(), options)


def repeated(
    name: str, matrix: sp.csr_matrix, genes: np.ndarray, options: argparse.Namespace
) -> Cells:
    """Repeat the rows of a matrix until there are enough cells, each with a name of its own."""
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp
    from anndata import AnnData

    copies = -(-options.cells // matrix.shape[0])
    many = sp.vstack([matrix] * copies, format="csr")[: options.cells]
    adata = AnnData(
        X=many,
        obs=pd.DataFrame(index=[f"{name}-{i}" for i in range(many.shape[0])]),
        var=pd.DataFrame(index=genes),
    )
    distinct = min(matrix.shape[0], many.shape[0])
    n_part = min(options.upstream_cells, distinct)
    rows = np.arange(n_part) * distinct // n_part
    return Cells(name, adata, adata[rows].copy(), rows)


# --- are they comparable? ------------------------------------------------------------------------


def their_sentences(cells: Cells, vocabulary: dict[str, int], upstream: Any) -> list[str]:
    """Run `generate_sentences` of cell2sentence, without its progress bar on the screen."""
    with redirect_stderr(io.StringIO()):
        return upstream.generate_sentences(cells.part, vocabulary)


def their_vocabulary(cells: Cells, upstream: Any) -> dict[str, int]:
    with redirect_stderr(io.StringIO()):
        return upstream.generate_vocabulary(cells.part)


def difference(cells: Cells, upstream: Any, seed: int) -> str | None:
    """Return how the sentences of the two sides differ beyond the order of ties, or None.

    Compared in every cell of the part: the genes, the counts along both sentences, the first
    `TOP_K`, and the text.
    """
    import numpy as np

    vocabulary = their_vocabulary(cells, upstream)
    if len(vocabulary) != cells.part.n_vars:
        return f"cell2sentence knows {len(vocabulary):,} words for {cells.part.n_vars:,} genes"
    column = {word: i for i, word in enumerate(vocabulary)}
    ours, top = (rank(cells.part, seed, top_k) for top_k in (None, TOP_K))
    texts = top.to_text()
    for i, sentence in enumerate(their_sentences(cells, vocabulary, upstream)):
        cell = cells.part.obs_names[i]
        theirs = np.array([column[word] for word in sentence.split(" ")])
        mine = np.array([column[word] for word in ours.words(i)])
        counts = cells.part.X[i].toarray().ravel()
        if not np.array_equal(np.sort(mine), np.sort(theirs)):
            return f"{cell} has {len(mine):,} genes here and {len(theirs):,} there"
        if (np.diff(counts[mine]) > 0).any() or (np.diff(counts[theirs]) > 0).any():
            return f"{cell} has a count that rises along the sentence"
        if not np.array_equal(top.to_columns(i), ours.to_columns(i)[:TOP_K]):
            return f"{cell} has other genes in its top {TOP_K} than at the head of all its genes"
        if texts[i].as_py() != " ".join(ours.words(i)[:TOP_K]):
            return f"{cell} has a text that is not its first {TOP_K} words"
    return None


def rank(adata: AnnData, seed: int, top_k: int | None) -> RankedCells:
    """Rank a matrix that is known to be good, without the checks of `c2s.pp.cell_sentences`."""
    from c2s.cells.ranked import rank_matrix
    from c2s.cells.vocabulary import GeneVocabulary

    vocabulary = GeneVocabulary.from_var(adata.var)
    return rank_matrix(adata.X, vocabulary, adata.obs_names.to_numpy(), top_k=top_k, seed=seed)


# --- timing --------------------------------------------------------------------------------------


def compile_seconds() -> float:
    """Run everything that is compiled on a few cells; return how long that took, in seconds."""
    import c2s

    few = c2s.datasets.pancreas()[:2].copy()
    start = time.perf_counter()
    rank(few, 0, TOP_K).to_text()
    seconds = time.perf_counter() - start
    bit_sums()(few.X.data, few.X.indices)  # the benchmark's own, not counted
    return seconds


@functools.cache
def bit_sums() -> Callable[[np.ndarray, np.ndarray], int]:
    """Return a compiled function that adds up the bits of two arrays of 32-bit values, as integers.

    Integer sums are vectorised without liberties, so the memory is what it waits for.
    """
    import numpy as np
    from numba import njit, prange

    @njit(parallel=True)
    def add(bits: np.ndarray) -> int:
        total = 0
        for i in prange(bits.shape[0]):
            total += bits[i]
        return total

    def both(data: np.ndarray, indices: np.ndarray) -> int:
        return int(add(data.view(np.int32)) + add(indices.view(np.int32)))

    return both


def measure(cells: Cells, upstream: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds on one matrix; return rates (cells a second), ratios and the floor."""
    import c2s
    from c2s.cells.ranked import rank_matrix
    from c2s.cells.vocabulary import GeneVocabulary

    matrix, ids = cells.adata.X, cells.adata.obs_names.to_numpy()
    genes = GeneVocabulary.from_var(cells.adata.var)
    vocabulary = their_vocabulary(cells, upstream)
    seed = options.seed
    top = rank_matrix(matrix, genes, ids, top_k=TOP_K, seed=seed)
    runs: dict[str, Callable[[], object]] = {
        RANKS_TOP: lambda: rank_matrix(matrix, genes, ids, top_k=TOP_K, seed=seed),
        RANKS_ALL: lambda: rank_matrix(matrix, genes, ids, seed=seed),
        UPSTREAM: lambda: their_sentences(cells, vocabulary, upstream),
        TEXT: lambda: top.to_text(),
        RANKS_TEXT: lambda: rank_matrix(matrix, genes, ids, top_k=TOP_K, seed=seed).to_text(),
        VERB: lambda: c2s.pp.cell_sentences(cells.adata, top_k=TOP_K, seed=seed),
        FLOOR: lambda: bit_sums()(matrix.data, matrix.indices),
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for name, run in runs.items():
        if name != UPSTREAM:
            run()  # warm: memory, caches
    for _ in range(options.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds = time.perf_counter() - start
            rates[name].append((len(cells.rows) if name == UPSTREAM else len(ids)) / seconds)
    return summary(cells, rates)


def summary(cells: Cells, rates: dict[str, list[float]]) -> dict[str, Any]:
    """Return medians and ranges over rounds, and each round's ratio to cell2sentence and the floor.

    `slower_than_reading` is the time of a run in units of the time to read the matrix once.
    """
    theirs, reading = rates[UPSTREAM], rates[FLOOR]
    matrix = cells.adata.X
    n_bytes = matrix.data.nbytes + matrix.indices.nbytes
    rows = {}
    for name, rate in rates.items():
        rows[name] = {
            "cells_per_second": spread(rate),
            "times_cell2sentence": spread([a / b for a, b in zip(rate, theirs, strict=True)]),
            "slower_than_reading": spread([b / a for a, b in zip(rate, reading, strict=True)]),
        }
    return {
        "name": cells.name,
        "n_cells": matrix.shape[0],
        "n_cells_cell2sentence": len(cells.rows),
        "genes_per_cell": matrix.nnz / matrix.shape[0],
        "genes_per_cell_cell2sentence": cells.part.X.nnz / len(cells.rows),
        "matrix_bytes": n_bytes,
        "reading_gb_per_second": statistics.median(reading) * n_bytes / matrix.shape[0] / 1e9,
        "runs": rows,
    }


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


# --- saying it -----------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Return what the numbers depend on: processor, cores, load, versions, commit."""
    packages = (
        "c2s-toolkit",
        "cell2sentence",
        "numba",
        "numpy",
        "scipy",
        "pyarrow",
        "scikit-learn",
    )
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.release()}",
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
        "commit": commit(),
    }


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def commit() -> str | None:
    """Return the commit of this checkout, with `+` where it has changes; None outside of git."""

    def git(*words: str) -> str:
        folder = Path(__file__).parent
        return subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def describe(facts: dict[str, Any], threads: int) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    lines = [f"{facts['cpu']}, {facts['cores']} cores, {threads} threads; {versions}"]
    # One busy process is this one.
    if facts["load_before"] > 1:
        lines.append(
            f"the machine is busy (load {facts['load_before']:.1f}): runs with several threads "
            "suffer from that more than cell2sentence, which uses one"
        )
    return "\n".join(lines)


def table(entry: dict[str, Any]) -> str:
    """Return the result of one matrix as text."""
    lines = [
        "",
        f"{entry['name']}: {entry['n_cells']:,} cells, {entry['genes_per_cell']:,.0f} genes a cell "
        f"(cell2sentence: {entry['n_cells_cell2sentence']:,} of them, "
        f"{entry['genes_per_cell_cell2sentence']:,.0f} genes a cell); median, lowest–highest",
        f"{'':<46}{'cells/s':>30}{'× cell2sentence':>24}{'× time of reading':>20}",
    ]
    for name, run in entry["runs"].items():
        rate, ratio = run["cells_per_second"], run["times_cell2sentence"]
        lines.append(
            f"{name:<46}{rate['median']:>12,.0f}"
            f"{'{:,.0f}–{:,.0f}'.format(rate['min'], rate['max']):>18}"
            f"{ratio['median']:>10,.0f}{'{:,.0f}–{:,.0f}'.format(ratio['min'], ratio['max']):>14}"
            f"{run['slower_than_reading']['median']:>20,.1f}"
        )
    size = entry["matrix_bytes"] / 1e6
    lines.append(f"reading: {size:,.0f} MB at {entry['reading_gb_per_second']:.1f} GB/s")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
