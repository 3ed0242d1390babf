"""How fast training samples are read, and how well they are mixed, beside `datasets` and scDataset.

    python benchmarks/reader.py --json reader.json

It needs the packages that it compares with:

    pip install datasets scDataset==0.3.0

annbatch, the other loader of raw matrices, needs Python 3.12 or newer and is not run.

The pancreas cells are written as twelve h5ad files, a study each, sorted by cell type: every file and every shard is as
unlike the others as it can be, which is the hard case for a shuffle. A corpus is built from them, and `datasets` writes
the same samples into Parquet and Arrow, a file for each shard. Every stream is checked to hold the same samples. Then
rounds follow each other, in each everything is read once by one process, and a ratio is taken within its round.

A rate counts from the first item, and that item's wait is told apart. Samples have one cell here; scDataset's rate is
rows of the matrix, with their raw counts, which still have to become tokens. The mixture of an order is the entropy of
studies and of cell types in batches of consecutive samples: a perfect shuffle of these samples is the most there is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData

    from c2s.corpus.reader import ShardReader

MISSING = (
    "this benchmark compares with datasets and scDataset, and Python found no module {name!r}; install them with: "
    "pip install datasets scDataset==0.3.0"
)

#: Samples of a batch whose mixture is measured.
BATCH = 64

#: Shards that our reader shuffles together; None for all.
WINDOWS = (1, 4, 16, None)

#: Samples in the shuffle buffer of `datasets`; the first is its default.
BUFFERS = (1000, 4000)

PACKED = "c2s packed sequences"
SAMPLES = "c2s samples"
PARQUET = "datasets Parquet, samples as tensors"
LISTS = "datasets Parquet, samples as lists"
ARROW = "datasets Arrow, samples as tensors"
ARROW_PACKED = "datasets Arrow, packed sequences as tensors"
SCDATASET = "scDataset h5ad, cells as CSR rows"


@dataclass(frozen=True)
class Corpus:
    """The same samples for all sides.

    Attributes
    ----------
    folder
        The corpus; `samples` and `packed` beside it are written by `datasets`, `all.h5ad` holds all cells.
    labels
        Study and cell type of each sample, by the bytes of its tokens.
    numbers : int64 array, shape (n_samples, 2)
        The same as numbers, by the number that a sample has in the files of `datasets`.
    n_shards
        Shards of the training split.
    """

    folder: Path
    labels: dict[bytes, tuple[int, int]]
    numbers: np.ndarray
    n_shards: int

    def files(self, kind: str) -> list[str]:
        """Return what `datasets` wrote; `kind` is folder and suffix."""
        folder, suffix = kind.split(".")
        return sorted(map(str, (self.folder.parent / folder).rglob(f"*.{suffix}")))


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and return the exit code."""
    options = parse(arguments)
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    try:
        import scdataset  # noqa: F401

        import datasets
    except ModuleNotFoundError as error:
        print(MISSING.format(name=error.name), file=sys.stderr)
        return 2
    datasets.disable_progress_bars()
    import pyarrow as pa
    import torch

    # All sides compute with one thread.
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HF_DATASETS_CACHE"] = scratch
        return compare(options, Path(scratch))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--studies", type=int, default=12, help="files that the cells are split into")  # fmt: skip
    parser.add_argument("--samples-per-cell", type=int, default=6)
    parser.add_argument("--samples", type=int, default=4000, help="samples that a run reads, at least")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is run")
    parser.add_argument("--workers", type=int, default=2, help="processes that build the corpus")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the result and the machine's facts here")
    options = parser.parse_args(arguments)
    for name in ("studies", "samples_per_cell", "samples", "rounds", "workers"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return options


def compare(options: argparse.Namespace, scratch: Path) -> int:
    """Make the data, check, time, measure the mixtures and report; return the exit code."""
    from c2s.common.files import atomic_file
    from ranking import machine, version

    facts = machine()
    facts["versions"] |= {p: version(p) for p in ("datasets", "scDataset", "torch", "anndata")}
    print(describe(facts))
    corpus = make_corpus(options, scratch)
    problem = difference(corpus)
    if problem:
        print(f"the sides differ: {problem}", file=sys.stderr)
        return 1
    result: dict[str, Any] = {
        "machine": facts,
        "options": {k: v for k, v in vars(options).items() if k != "json"},
        "corpus": {"shards": corpus.n_shards, "samples": len(corpus.numbers)},
        "rates": measure(corpus, options),
        "mixtures": mixtures(corpus, options),
    }
    print(rate_table(result))
    print(mixture_table(result))
    facts["load_after"] = os.getloadavg()[0]
    if options.json:
        with atomic_file(options.json) as path:
            path.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return 0


# --- the data ------------------------------------------------------------------------------------


def make_corpus(options: argparse.Namespace, scratch: Path) -> Corpus:
    """Write the cells, build the corpus, and write its samples with `datasets`."""
    from anndata import concat

    import c2s
    from c2s.common.files import sha256
    from c2s.common.seeds import generator
    from c2s.corpus.build import build_corpus
    from c2s.corpus.shards import TokenShard

    adata = c2s.datasets.pancreas()
    order = generator(options.seed, "benchmark", "studies").permutation(adata.n_obs)
    types = sorted(set(adata.obs["cell_type"]))
    cells: dict[str, np.ndarray] = {}
    parts = []
    for k in range(options.studies):
        part = adata[order[k :: options.studies]]
        part = part[np.argsort(part.obs["cell_type"].astype(str), kind="stable")].copy()
        part.obs["study"] = f"study {k:03d}"
        path = scratch / f"study{k:03d}.h5ad"
        part.write_h5ad(path)
        cells[sha256(path)] = np.array([types.index(t) for t in part.obs["cell_type"]])
        parts.append(part)
    concat(parts).write_h5ad(scratch / "all.h5ad")
    (scratch / "recipe.yaml").write_text(json.dumps(recipe(options)), "utf-8")
    folder = scratch / "corpus"
    build_corpus(
        scratch / "recipe.yaml", folder, workers=options.workers, on_stage=lambda *_: lambda _: None
    )
    labels: dict[bytes, tuple[int, int]] = {}
    numbers: list[tuple[int, int]] = []
    shards = [TokenShard(p) for p in sorted((folder / "tokens" / "train").glob("*.arrow"))]
    first = 0
    for k, shard in enumerate(shards):
        write_with_datasets(shard, first, scratch, f"{k:05d}")
        rows = shard.column("cells").to_pylist()
        studies = [int(s.split()[1]) for s in shard.column("study").to_pylist()]
        for i, (study, (row,)) in enumerate(zip(studies, rows, strict=True)):
            numbers.append((study, int(cells[shard.facts.source][row])))
            # Two samples of one cell may be the same; of two cells never.
            key = shard.tokens(i).astype(np.int64).tobytes()
            assert labels.setdefault(key, numbers[-1]) == numbers[-1]
        first += len(shard)
    return Corpus(folder, labels, np.array(numbers), len(shards))


def recipe(options: argparse.Namespace) -> dict[str, Any]:
    """Return a corpus of one-cell tasks, so that a sample has one cell type; every cell is trained on."""
    return {
        "sources": [{"data": "study*.h5ad"}],
        "tasks": dict.fromkeys(("sc_lm", "cell_type", "cond_cell")),
        "samples_per_cell": options.samples_per_cell,
        "single_genes": [50, 200],
        "tokens": "genes",
        "context": 1024,
        "unit_cells": 64,
        "split": {"fractions": [1, 0, 0], "few_donors": "train"},
        "seed": options.seed,
    }


def write_with_datasets(shard: Any, first: int, folder: Path, name: str) -> None:
    """Write the samples of a shard, and its packed sequences, as one would for a Trainer."""
    import datasets

    tokens = [shard.tokens(i).astype(np.int32) for i in range(len(shard))]
    labels = []
    for i, row in enumerate(tokens):
        labels.append(np.where(np.arange(len(row)) < shard.prompt_length(i), -100, row))
    samples = datasets.Dataset.from_dict(
        {"input_ids": tokens, "labels": labels, "number": np.arange(first, first + len(shard))}
    )
    (folder / "samples").mkdir(exist_ok=True)
    samples.to_parquet(folder / "samples" / f"{name}.parquet")
    samples.save_to_disk(folder / "samples" / name)
    sequences = list(pairwise(shard.sample_starts.tolist()))
    places = [np.arange(len(t), dtype=np.int32) for t in tokens]
    packed = {
        "input_ids": [np.concatenate(tokens[a:b]) for a, b in sequences],
        "labels": [np.concatenate(labels[a:b]) for a, b in sequences],
        "position_ids": [np.concatenate(places[a:b]) for a, b in sequences],
        "seq_lengths": [[len(t) for t in tokens[a:b]] for a, b in sequences],
    }
    datasets.Dataset.from_dict(packed).save_to_disk(folder / "packed" / name)


# --- the streams ---------------------------------------------------------------------------------


def ours(corpus: Corpus, seed: int, packed: bool, window: int | None = 64) -> ShardReader:
    from c2s.corpus.reader import ShardReader

    return ShardReader(corpus.folder, packed=packed, window=window, seed=seed, rank=0, world_size=1)


def theirs(corpus: Corpus, kind: str, seed: int, buffer: int = BUFFERS[0]) -> Any:
    """Return a shuffled stream of `datasets`; `kind` is folder and suffix of its files."""
    import datasets

    builder = {"parquet": "parquet", "arrow": "arrow"}[kind.split(".")[1]]
    stream = datasets.load_dataset(
        builder, data_files=corpus.files(kind), split="train", streaming=True
    )
    return stream.shuffle(seed=seed, buffer_size=buffer)


def cells(corpus: Corpus, seed: int, batch: Callable[[AnnData], Any]) -> Iterable[Any]:
    """Return scDataset's stream of batches of the raw matrix on disk, shuffled in its default way."""
    import anndata
    from scdataset import BlockShuffling, scDataset

    backed = anndata.read_h5ad(corpus.folder.parent / "all.h5ad", backed="r")
    return scDataset(
        backed,
        BlockShuffling(),
        batch_size=BATCH,
        fetch_transform=lambda a: a.to_memory(),
        batch_transform=batch,
        seed=seed,
    )


def difference(corpus: Corpus) -> str | None:
    """Return how the samples of the sides differ, or None: the same tokens and labels, equally often."""

    def content(items: Iterable[dict[str, Any]]) -> Counter[tuple[bytes, bytes]]:
        return Counter(
            (i["input_ids"].numpy().tobytes(), i["labels"].numpy().tobytes()) for i in items
        )

    mine = content(ours(corpus, 0, False))
    if {key[0] for key in mine} != set(corpus.labels) or mine.total() != len(corpus.numbers):
        return "the reader and the shards"
    for kind in ("samples.parquet", "samples.arrow"):
        if content(theirs(corpus, kind, 0).with_format("torch")) != mine:
            return f"the reader and {kind}"
    if content(theirs(corpus, "packed.arrow", 0).with_format("torch")) != content(ours(corpus, 0, True)):  # fmt: skip
        return "packed sequences"
    return None


# --- timing --------------------------------------------------------------------------------------


def measure(corpus: Corpus, options: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds; return samples a second (cells, for the matrix), and seconds to the first.

    The rate is taken from the first item on: a buffer of `datasets` is filled before that. What is still in the buffer
    at the end of a stream comes for nothing, so a run stops long before. scDataset reads a thousand cells at once, so
    its rate is that of all cells, from the beginning.
    """
    n = max(1, min(options.samples, len(corpus.numbers) - 2 * BUFFERS[0]))
    streams: dict[str, Callable[[int], Iterable[dict[str, Any]]]] = {
        SAMPLES: lambda s: ours(corpus, s, False),
        PARQUET: lambda s: theirs(corpus, "samples.parquet", s).with_format("torch"),
        LISTS: lambda s: theirs(corpus, "samples.parquet", s),
        ARROW: lambda s: theirs(corpus, "samples.arrow", s).with_format("torch"),
        PACKED: lambda s: ours(corpus, s, True),
        ARROW_PACKED: lambda s: theirs(corpus, "packed.arrow", s).with_format("torch"),
    }
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in (*streams, SCDATASET)}
    for seed in range(options.rounds):
        for name, stream in streams.items():
            runs[name].append(time_samples(stream, seed, n))
        runs[SCDATASET].append(time_cells(corpus, seed))
    return {name: summary(name, runs) for name in runs}


def time_samples(
    stream: Callable[[int], Iterable[dict[str, Any]]], seed: int, n: int
) -> tuple[float, float]:
    """Return samples a second after the first item, and the seconds until that."""
    begin = time.perf_counter()
    items = iter(stream(seed))
    next(items)
    start = time.perf_counter()
    found = 0
    while found < n:
        item = next(items)
        found += len(item["seq_lengths"]) if "seq_lengths" in item else 1
    return found / (time.perf_counter() - start), start - begin


def time_cells(corpus: Corpus, seed: int) -> tuple[float, float]:
    """Return cells a second, and the seconds until the first batch."""
    begin = time.perf_counter()
    stream = cells(corpus, seed, lambda a: a.X)
    start = time.perf_counter()
    found, first = 0, 0.0
    for batch in stream:
        first = first or time.perf_counter() - begin
        found += batch.shape[0]
    return found / (time.perf_counter() - start), first


def summary(name: str, runs: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Return rate and wait of a stream, and how many times faster ours is that gives the same."""
    from ranking import spread

    ours = runs[PACKED if name in (PACKED, ARROW_PACKED) else SAMPLES]
    return {
        "per_second": spread([rate for rate, _ in runs[name]]),
        "first_after_seconds": spread([wait for _, wait in runs[name]]),
        "c2s_is_faster": spread([a / b for (a, _), (b, _) in zip(ours, runs[name], strict=True)]),
    }


# --- mixtures ------------------------------------------------------------------------------------


def mixtures(corpus: Corpus, options: argparse.Namespace) -> dict[str, Any]:
    """Return the entropy of studies and of cell types in batches of consecutive samples, by order."""
    rng = np.random.default_rng(options.seed)
    seeds = range(options.rounds)
    found = {"perfect shuffle": mixture([rng.permutation(corpus.numbers) for _ in seeds])}
    for window in WINDOWS:
        name = f"c2s, window of {window or 'all'} shard{'' if window == 1 else 's'}"
        found[name] = mixture([our_order(corpus, s, window) for s in seeds])
    for buffer in BUFFERS:
        name = f"datasets, buffer of {buffer:,} samples"
        found[name] = mixture([their_order(corpus, s, buffer) for s in seeds])
    name = "scDataset, blocks of 8, fetching 1,024 cells"
    found[name] = mixture([cell_order(corpus, s) for s in seeds])
    return found | {"as stored": mixture([corpus.numbers])}


def our_order(corpus: Corpus, seed: int, window: int | None) -> np.ndarray:
    items = ours(corpus, seed, False, window)
    return np.array([corpus.labels[i["input_ids"].numpy().tobytes()] for i in items])


def their_order(corpus: Corpus, seed: int, buffer: int) -> np.ndarray:
    stream = theirs(corpus, "samples.parquet", seed, buffer).select_columns(["number"])
    return corpus.numbers[[row["number"] for row in stream]]


def cell_order(corpus: Corpus, seed: int) -> np.ndarray:
    import pandas as pd

    obs = pd.concat(cells(corpus, seed, lambda a: a.obs))
    return np.stack([pd.factorize(obs[name])[0] for name in ("study", "cell_type")], axis=1)


def mixture(orders: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """Return mean and standard deviation over batches, in bits, and the lowest batch."""
    out = {}
    for k, name in enumerate(("study", "cell_type")):
        found = [
            entropy(order[a : a + BATCH, k])
            for order in orders
            for a in range(0, len(order) - BATCH + 1, BATCH)
        ]
        out[name] = {"mean": float(np.mean(found)), "sd": float(np.std(found)), "min": min(found)}
    return out


def entropy(values: np.ndarray) -> float:
    """Return the entropy of the values that occur, in bits."""
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float((share * np.log2(1 / share)).sum())


# --- saying it -----------------------------------------------------------------------------------


def describe(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    busy = facts["load_before"] > 1  # one busy process is this one
    return f"{facts['cpu']}, {facts['cores']} cores; {versions}" + (
        f"\nthe machine is busy (load {facts['load_before']:.1f}): look at the ratios"
        if busy
        else ""
    )


def rate_table(result: dict[str, Any]) -> str:
    facts = result["corpus"]
    lines = [
        "",
        f"{facts['samples']:,} samples in {facts['shards']:,} shards, one process, files in the page cache; median, "
        "lowest–highest of the rounds",
        f"{'':<46}{'samples (cells) / s':>32}{'c2s is × faster':>24}{'first after':>14}",
    ]
    for name, run in result["rates"].items():
        rate, ratio = run["per_second"], run["c2s_is_faster"]
        lines.append(
            f"{name:<46}{rate['median']:>14,.0f}{'{:,.0f}–{:,.0f}'.format(rate['min'], rate['max']):>18}"
            f"{ratio['median']:>12.1f}{'{:.1f}–{:.1f}'.format(ratio['min'], ratio['max']):>12}"
            f"{run['first_after_seconds']['median']:>12.2f} s"
        )
    return "\n".join(lines)


def mixture_table(result: dict[str, Any]) -> str:
    lines = [
        "",
        f"entropy in batches of {BATCH} consecutive samples, bits: mean ± sd over batches (lowest batch)",
        f"{'':<46}{'study':>26}{'cell type':>26}",
    ]
    for name, found in result["mixtures"].items():
        cells = [
            "{:.2f} ± {:.2f} ({:.2f})".format(*(found[k][s] for s in ("mean", "sd", "min")))
            for k in ("study", "cell_type")
        ]
        lines.append(f"{name:<46}{cells[0]:>26}{cells[1]:>26}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
