"""How fast a file of cells becomes a corpus, and in how much memory, beside the `cell2sentence` package.

    python benchmarks/corpus.py --data cache --tokenizer .tokenizers/gpt-neox --json corpus.json

It needs the package that it compares with, and what that imports:

    pip install --no-deps cell2sentence==1.2.0
    pip install datasets plotnine tqdm

The files are made in `--data` the first time (6 GB, a few minutes). Every run has a process of its own, so that its
memory is its own. In each round everything is run once, so that whatever else the machine is doing meets both sides; a
ratio is taken within its round. README.md in this folder says how to read the result.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from typing import Any

import h5py
import numpy as np

TOP_K = 200
FLAT = (25_000, 100_000)
VALUES_AT_A_TIME = 1 << 21
MISSING = (
    "this benchmark compares with the cell2sentence package, and Python found no module {name!r}; "
    "install it with: pip install --no-deps cell2sentence==1.2.0, "
    "and what it imports with: pip install datasets plotnine tqdm"
)

CLOCKS = ("clock", "processor")
TO_TOKENS = "cell2sentence, on to tokens"
UNPACKING = "unpacking with h5py"
#: Ours, what it is beside, and the ratio that is asked for.
COMPARED = (
    ("sentences", "cell2sentence", "50"),
    ("tokens", TO_TOKENS, "50"),
    ("sentences, gzip", UNPACKING, "0.80"),
    ("sentences, pancreas", "cell2sentence, pancreas", "-"),
)

#: Steps of a unit that sentences alone do not need.
OF_TOKENS = ("draw", "words and token counts", "pack", "token shard")
#: A profile leaves the first unit out, so there must be another whole one.
FEWEST_CELLS = 2 * 8192

RECIPE = """\
sources: [{{data: {data}}}]
quality: {{min_cells: 0, min_genes: 1, max_pct_mt: null}}
tasks: {{cell_type: null}}
samples_per_cell: {samples}
single_genes: [{k}, {k}]
sentence_genes: {k}
tokenizer: {tokenizer}
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark, or the part of it that a process of its own is for; return the exit code."""
    options = parse(arguments)
    if options.part:
        print(json.dumps(PARTS[options.part](json.loads(options.how))))
        return 0
    try:
        import cell2sentence.utils  # noqa: F401
    except ModuleNotFoundError as error:
        print(MISSING.format(name=error.name), file=sys.stderr)
        return 2
    files = make_files(options)
    with tempfile.TemporaryDirectory(prefix="c2s-benchmark-", dir=options.data) as scratch:
        result = measure(options, files, Path(scratch))
    print(report(result))
    if options.json:
        from c2s.common.files import atomic_file

        with atomic_file(options.json) as path:
            path.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, help="folder where the files of cells are kept")
    parser.add_argument("--tokenizer", default="small", help="folder of a tokenizer")
    parser.add_argument("--cells", type=int, default=200_000, help="synthetic cells")
    parser.add_argument("--repeated", type=int, default=40_000, help="cells of repeated pancreas")
    parser.add_argument("--upstream-cells", type=int, default=2_000, help="for cell2sentence")
    parser.add_argument("--upstream-more", type=int, default=20_000, help="for its memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the result and the machine's facts here")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--how", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.part and options.data is None:
        parser.error("--data is missing: name a folder with 10 GB of space")
    for name in ("cells", "repeated", "upstream_cells", "upstream_more", "rounds", "workers"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if not options.part and options.cells < FEWEST_CELLS:
        parser.error(f"--cells must be at least {FEWEST_CELLS}, two units of work")
    if options.tokenizer != "small":
        options.tokenizer = str(Path(options.tokenizer).resolve())
    return options


# --- the files ----------------------------------------------------------------------------------


def make_files(options: argparse.Namespace) -> dict[str, str]:
    """Make the files that are not there yet; return their paths."""
    import c2s
    from make_cells import write_packed, write_repeated, write_synthetic

    options.data.mkdir(parents=True, exist_ok=True)
    gigabyte = int(2**30 / 8 / 2_310)  # at 8 bytes a value
    sizes = {options.cells, gigabyte, options.upstream_cells, options.upstream_more, *FLAT}
    plain = options.data / f"synthetic-{options.cells}.h5ad"
    wanted: dict[str, Callable[[Path], None]] = {
        f"synthetic-{n}": partial(write_synthetic, n_cells=n)
        for n in sorted(sizes)
        if n <= options.cells
    }
    wanted[f"gzip-{options.cells}"] = partial(write_packed, plain)
    for n in sorted({options.repeated, options.upstream_cells}):
        wanted[f"repeated-{n}"] = partial(write_repeated, adata=c2s.datasets.pancreas(), n_cells=n)
    paths = {name: options.data / f"{name}.h5ad" for name in wanted}
    for name, path in paths.items():
        if not path.is_file():
            print(f"making {path}", flush=True)
            wanted[name](path)
    return {name: str(path) for name, path in paths.items()} | {
        "gigabyte": str(paths.get(f"synthetic-{gigabyte}", ""))
    }


# --- processes of their own ---------------------------------------------------------------------


@dataclass
class Watch:
    """Memory and processor time of a process and all that it started, looked at five times a second."""

    session: int
    peak: int = 0
    processor: dict[int, float] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Look until it is over."""
        while not self.over.wait(0.2):
            members = list(self.members())
            self.peak = max(self.peak, sum(map(proportional_bytes, members)))

    def members(self) -> Iterator[int]:
        """Yield the processes of the session, and note the time they have had."""
        ticks = os.sysconf("SC_CLK_TCK")
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                # After the name, which may hold anything but ends with a bracket.
                words = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            if int(words[3]) == self.session:
                pid = int(folder.name)
                self.processor[pid] = (int(words[11]) + int(words[12])) / ticks
                yield pid


def proportional_bytes(pid: int) -> int:
    """Return the proportional set size of a process: shared pages are divided among those who share them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def apart(part: str, **how: Any) -> dict[str, Any]:
    """Run a part of the benchmark in a process of its own; return what it says, its memory and its time."""
    command = [sys.executable, __file__, "--part", part, "--how", json.dumps(how)]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
        start_new_session=True,
    )  # fmt: skip
    watch = Watch(process.pid)
    thread = threading.Thread(target=watch.run)
    thread.start()
    out, err = process.communicate()
    watch.over.set()
    thread.join()
    if process.returncode:
        sys.exit(f"{part} failed: {err[-2000:]}")
    said: dict[str, Any] = json.loads(out.splitlines()[-1])
    return said | {
        "process_seconds": time.perf_counter() - start,
        "processor_seconds": sum(watch.processor.values()),
        "peak_bytes": watch.peak,
    }


def build(how: dict[str, Any]) -> dict[str, Any]:
    """Build a corpus as `c2s corpus build` does; return when it did what, in seconds."""
    from c2s.corpus import index
    from c2s.corpus.build import build_corpus

    hashing = Clock()
    index.digest = hashing.around(index.digest)
    before = time.process_time()
    stages: list[tuple[str, float]] = []

    def on_stage(name: str, _: int) -> Callable[[int], None]:
        stages.append((name, time.perf_counter()))
        return lambda _: None

    start = time.perf_counter()
    manifest = build_corpus(how["recipe"], how["out"], workers=how["workers"], on_stage=on_stage)
    end = time.perf_counter()
    return {
        "cells": sum(manifest["cells"].values()),
        "tokens": sum(sum(tasks.values()) for tasks in manifest["tokens"].values()),
        "seconds": end - start - hashing.seconds,
        "hash_seconds": hashing.seconds,
        "left_out_processor_seconds": before + hashing.processor,
        "building_seconds": end - next(at for name, at in stages if name == "Building"),
    }


def idle(how: dict[str, Any]) -> dict[str, Any]:
    """Start the same workers and give them nothing to do."""
    import c2s.corpus.build  # noqa: F401  what the main process of a build holds
    from c2s.corpus.engines import map_here

    for _ in map_here(time.sleep, [1.0] * how["workers"], how["workers"]):
        pass
    return {}


def upstream(how: dict[str, Any]) -> dict[str, Any]:
    """Go the way of cell2sentence: file, sentences, Arrow data set; then prompts and tokens, as `fine_tune` does."""
    import anndata
    from cell2sentence import CSData
    from cell2sentence.prompt_formatter import C2SPromptFormatter
    from cell2sentence.utils import tokenize_loss_on_response
    from transformers import AutoTokenizer

    from datasets import load_from_disk

    tokenizer = AutoTokenizer.from_pretrained(how["tokenizer"]) if how["tokenizer"] else None
    start, before = time.perf_counter(), time.process_time()
    adata = anndata.read_h5ad(how["file"])
    labels = ["cell_type", "tissue", "organism"]
    arrow, vocabulary = CSData.adata_to_arrow(adata, label_col_names=labels)
    data = CSData.csdata_from_arrow(arrow, vocabulary, how["out"], "sentences")
    said = {"cells": adata.n_obs, "seconds": time.perf_counter() - start}
    said["work_processor_seconds"] = time.process_time() - before
    if tokenizer is not None:
        formatter = C2SPromptFormatter("cell_type_prediction", top_k_genes=TOP_K)
        prompts = formatter.format_hf_ds(load_from_disk(data.data_path))
        tokens = prompts.map(
            lambda batch: tokenize_loss_on_response(batch, tokenizer),
            batched=True,
            load_from_cache_file=False,
            batch_size=1000,
        )
        tokens.save_to_disk(str(Path(how["out"]) / "tokens"))
        said["tokens_seconds"] = time.perf_counter() - start
        said["tokens_work_processor_seconds"] = time.process_time() - before
        said["tokens"] = sum(map(len, tokens["input_ids"]))
    return said


def upstream_reading(how: dict[str, Any]) -> dict[str, Any]:
    """Do what cell2sentence does before it makes a sentence: a bound from below of its memory."""
    import anndata
    from cell2sentence.utils import generate_vocabulary

    adata = anndata.read_h5ad(how["file"])
    generate_vocabulary(adata)
    return {"cells": adata.n_obs}


def unpack(how: dict[str, Any]) -> dict[str, Any]:
    """Unpack the matrix of a file with h5py and do nothing else, with as many processes."""
    with mp.get_context("spawn").Pool(how["workers"]) as pool:
        pool.map(_nothing, range(how["workers"]))
        start = time.perf_counter()
        shares = [(how["file"], k, how["workers"]) for k in range(how["workers"])]
        processor = pool.map(_unpack_share, shares)
        return {
            "seconds": time.perf_counter() - start,
            "work_processor_seconds": sum(processor),
        }


def _nothing(_: int) -> None:
    time.sleep(0.2)


def _unpack_share(share: tuple[str, int, int]) -> float:
    path, k, n = share
    before = time.process_time()
    with h5py.File(path) as file:
        for name in ("data", "indices"):
            array = file["X"][name]
            step = VALUES_AT_A_TIME - VALUES_AT_A_TIME % array.chunks[0]
            for start in range(k * step, len(array), n * step):
                array[start : start + step]
    return time.process_time() - before


class Clock:
    """Adds up the time that functions take, without that of others that are timed too and run inside.

    Attributes
    ----------
    seconds, processor
        By the clock on the wall, and those that this process had a processor.
    """

    running: list[Clock] = []  # noqa: RUF012  shared on purpose: who is inside whom

    def __init__(self) -> None:
        self.seconds = self.processor = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start, before = time.perf_counter(), time.process_time()
            self.running.append(self)
            try:
                return function(*args, **kwargs)
            finally:
                self.running.pop()
                seconds, processor = time.perf_counter() - start, time.process_time() - before
                self.seconds += seconds
                self.processor += processor
                if self.running:
                    self.running[-1].seconds -= seconds
                    self.running[-1].processor -= processor

        return timed


def profile(how: dict[str, Any]) -> dict[str, Any]:
    """Build units in this process, one after the other; return the processor time of each step."""
    import numba
    import pyarrow as pa

    from c2s.corpus import build, unit
    from c2s.corpus.engines import map_in_turn

    numba.set_num_threads(1)
    pa.set_cpu_count(1)
    out = Path(how["out"])
    (out / "work").mkdir(parents=True)
    recipe = build.read_recipe(how["recipe"])
    folder = Path(how["recipe"]).parent
    quiet = lambda *_: lambda _: None  # noqa: E731
    plan = build.make_plan(recipe, folder, out / "work", map_in_turn, quiet)
    tokenizer = build.leave_for_units(plan, out)
    units = plan.units(dict.fromkeys(plan.sources, ""), tokenizer)
    digest = unit.shared_digest(out)
    unit.build_unit(str(out), digest, units[0])  # warm: kernels, tokenizer, genes
    source = type(unit._shared(str(out), digest).source(units[0].sha256))
    steps = {
        "read": (source, "read"),
        "check and look": (unit, "look"),
        "rank": (unit, "rank_matrix"),
        "names and text": (unit, "_sentences"),
        "Parquet": (unit, "_write_sentences"),
        "draw": (unit, "draw_samples"),
        "words and token counts": (unit, "fit"),
        "pack": (unit, "pack"),
        "token shard": (unit, "write_shard"),
        "hash of output": (unit, "sha256"),
        "the rest": (unit, "build_unit"),
    }
    clocks = {step: Clock() for step in steps}
    for step, (owner, name) in steps.items():
        setattr(owner, name, clocks[step].around(getattr(owner, name)))
    whole = [u for u in units[1:] if u.stop - u.start == units[0].stop - units[0].start][:3]
    for one in whole:
        unit.build_unit(str(out), digest, one)
    n = sum(u.stop - u.start for u in whole)
    return {
        "cells": n,
        "milliseconds_per_1000_cells": {s: c.processor / n * 1e6 for s, c in clocks.items()},
        "floor": reading_floor(how["file"], units[0].stop),
    }


def reading_floor(path: str, n_cells: int) -> float:
    """Return how long it takes to add up values and columns of 1,000 cells that are in memory, in milliseconds."""
    from numba import njit

    @njit
    def add(bits: np.ndarray) -> int:
        total = 0
        for i in range(bits.shape[0]):
            total += bits[i]
        return total

    with h5py.File(path) as file:
        end = int(file["X/indptr"][n_cells])
        arrays = [file["X"][name][:end].view(np.int32) for name in ("data", "indices")]
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        for array in arrays:
            add(array)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]) / n_cells * 1e6


PARTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "build": build,
    "idle": idle,
    "upstream": upstream,
    "upstream_reading": upstream_reading,
    "unpack": unpack,
    "profile": profile,
}


# --- the rounds ---------------------------------------------------------------------------------


@contextmanager
def folder_in(scratch: Path) -> Iterator[Path]:
    """Yield a folder that is removed at once, so that the disk holds one result at a time."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def run_build(
    scratch: Path, file: str, options: argparse.Namespace, samples: int
) -> dict[str, Any]:
    """Build a corpus of a file, with or without token shards."""
    with folder_in(scratch) as folder:
        recipe = write_recipe(folder, file, options, samples)
        return apart("build", recipe=recipe, out=str(folder / "out"), workers=options.workers)


def write_recipe(folder: Path, file: str, options: argparse.Namespace, samples: int) -> str:
    tokenizer = options.tokenizer if samples else "small"
    path = folder / "recipe.yaml"
    text = RECIPE.format(data=Path(file).resolve(), samples=samples, k=TOP_K, tokenizer=tokenizer)
    path.write_text(text, "utf-8")
    return str(path)


def run_upstream(scratch: Path, file: str, tokenizer: str) -> dict[str, Any]:
    with folder_in(scratch) as folder:
        return apart("upstream", file=file, out=str(folder), tokenizer=tokenizer)


def measure(options: argparse.Namespace, files: dict[str, str], scratch: Path) -> dict[str, Any]:
    """Run all rounds, and once what is about memory and the profile; return everything."""
    from ranking import machine

    plain, packed = (files[f"{kind}-{options.cells}"] for kind in ("synthetic", "gzip"))
    repeated = files[f"repeated-{options.repeated}"]
    part, part_repeated = (
        files[f"{kind}-{options.upstream_cells}"] for kind in ("synthetic", "repeated")
    )
    # Any tokenizer serves the other side: the small one is trained for a corpus, so one is made first.
    tokenizer = options.tokenizer
    if tokenizer == "small":
        tokenizer = small_tokenizer(scratch, part, options)
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        "sentences": lambda: run_build(scratch, plain, options, 0),
        "cell2sentence": lambda: run_upstream(scratch, part, tokenizer),
        "tokens": lambda: run_build(scratch, plain, options, 1),
        "sentences, gzip": lambda: run_build(scratch, packed, options, 0),
        UNPACKING: lambda: apart("unpack", file=packed, workers=options.workers),
        "sentences, pancreas": lambda: run_build(scratch, repeated, options, 0),
        "cell2sentence, pancreas": lambda: run_upstream(scratch, part_repeated, ""),
    }
    result: dict[str, Any] = {
        "machine": machine(),
        "options": {k: str(v) for k, v in vars(options).items() if k not in ("part", "how")},
        "rounds": [],
    }
    run_build(scratch, part, options, 1)  # warm: compiled kernels
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", flush=True)
        result["rounds"].append({name: run() for name, run in runs.items()})
    print("memory and profile", flush=True)
    result["memory"] = memory(options, files, scratch)
    for name, file in (("profile", plain), ("profile, gzip", packed)):
        with folder_in(scratch) as folder:
            recipe = write_recipe(folder, first_cells(file, folder), options, 1)
            result[name] = apart("profile", recipe=recipe, out=str(folder / "out"), file=plain)
    result["machine"]["load_after"] = os.getloadavg()[0]
    return result


def small_tokenizer(scratch: Path, file: str, options: argparse.Namespace) -> str:
    recipe = write_recipe(scratch, file, options, 1)
    apart("build", recipe=recipe, out=str(scratch / "small"), workers=1)
    return str(scratch / "small" / "tokenizer")


def first_cells(file: str, folder: Path) -> str:
    """Return a file whose hash takes no time: the profile is of units, and a hash is of the whole file."""
    from make_cells import write_first

    path = folder / "first.h5ad"
    write_first(Path(file), path, 4 * 8192)
    return str(path)


def memory(options: argparse.Namespace, files: dict[str, str], scratch: Path) -> dict[str, Any]:
    """Return peaks in bytes: of idle workers, of builds by number of cells, of cell2sentence."""
    plain = files[f"synthetic-{options.cells}"]
    found: dict[str, Any] = {"idle": apart("idle", workers=options.workers)["peak_bytes"]}
    found["builds"] = {
        str(n): run_build(scratch, files[f"synthetic-{n}"], options, 0)["peak_bytes"]
        for n in (*FLAT, options.cells)
        if n <= options.cells
    }
    found["tokens"] = run_build(scratch, plain, options, 1)["peak_bytes"]
    if files["gigabyte"]:
        found["gigabyte"] = run_build(scratch, files["gigabyte"], options, 0)["peak_bytes"]
        found["gigabyte, tokens"] = run_build(scratch, files["gigabyte"], options, 1)["peak_bytes"]
    sizes = [n for n in (options.upstream_cells, options.upstream_more) if n <= options.cells]
    peaks = [run_upstream(scratch, files[f"synthetic-{n}"], "")["peak_bytes"] for n in sizes]
    found["cell2sentence"] = dict(zip(map(str, sizes), peaks, strict=True))
    if len(sizes) == 2:
        slope = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
        found["cell2sentence, whole file by a straight line"] = int(
            peaks[0] + slope * (options.cells - sizes[0])
        )
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if available > 3 * Path(plain).stat().st_size:
        found["cell2sentence, whole file before the first sentence"] = apart(
            "upstream_reading", file=plain
        )["peak_bytes"]
    return found


# --- saying it ----------------------------------------------------------------------------------


def report(result: dict[str, Any]) -> str:
    """Return the result as text."""
    from ranking import describe

    rounds = result["rounds"]
    workers = int(result["options"]["workers"])
    lines = [describe(result["machine"], workers), ""]
    lines.append(
        f"{'cells a second: median (lowest–highest)':<40}{'':>4}{'of the clock':>26}{'of a processor':>26}"
    )
    for name in (*rounds[0], TO_TOKENS):
        by_clock, by_processor = ([rate(r, name, of) for r in rounds] for of in CLOCKS)
        lines.append(f"{name:<44}{spread(by_clock):>26}{spread(by_processor):>26}")
    hashing = [r["sentences"]["hash_seconds"] for r in rounds]
    lines += ["", f"SHA-256 of the plain file, left out above: {spread(hashing, 1)} s", ""]
    lines.append(f"{'ratio of rates':<62}{'of the clock':>24}{'of processors':>24}")
    for ours, theirs, aim in COMPARED:
        ratios = [
            [
                rate(r, ours, of)
                * (workers if of == "processor" else 1)
                / rate(r, theirs, of)
                / (workers if of == "processor" and theirs == UNPACKING else 1)
                for r in rounds
            ]
            for of in CLOCKS
        ]
        shown = "".join(f"{spread(ratio, 2):>24}" for ratio in ratios)
        lines.append(f"{f'{ours} / {theirs}, asked for {aim}':<62}{shown}")
    building = [r["sentences"]["cells"] / r["sentences"]["building_seconds"] for r in rounds]
    lines += ["", f"sentences, planning and start left out: {spread(building)} cells a second"]
    lines += ["", *memory_lines(result["memory"]), ""]
    for name in ("profile", "profile, gzip"):
        lines += profile_lines(name, result[name])
    return "\n".join(lines)


def rate(one: dict[str, Any], name: str, of: str) -> float:
    """Return the cells a second of a run in one round, the hash of the source left out.

    Parameters
    ----------
    of
        ``"clock"``, or ``"processor"``: a second in which a processor works, on whichever of the processes.
    """
    run = one["cell2sentence" if name == TO_TOKENS else name]
    cells = one["sentences, gzip"]["cells"] if name == UNPACKING else run["cells"]
    prefix = "tokens_" if name == TO_TOKENS else ""
    if of == "clock":
        return float(cells / run[f"{prefix}seconds"])
    if "work_processor_seconds" in run:
        return float(cells / run[f"{prefix}work_processor_seconds"])
    return float(cells / (run["processor_seconds"] - run["left_out_processor_seconds"]))


def memory_lines(found: dict[str, Any]) -> list[str]:
    """Return the peaks of memory as text."""
    size = 1 << 20
    lines = [
        f"memory, peak of the proportional set size of all processes; idle: {found['idle'] / size:,.0f} MB"
    ]
    builds = {f"sentences of {int(n):,} cells": peak for n, peak in found["builds"].items()}
    for name in ("tokens", "gigabyte", "gigabyte, tokens"):
        if name in found:
            builds[f"{name}"] = found[name]
    lines += [
        f"  {name:<42}{peak / size:>10,.0f} MB{(peak - found['idle']) / size:>10,.0f} above idle"
        for name, peak in builds.items()
    ]
    theirs = {f"cell2sentence, {int(n):,} cells": p for n, p in found["cell2sentence"].items()}
    theirs |= {n: p for n, p in found.items() if n.startswith("cell2sentence, ")}
    ours = max(found["builds"].values())
    lines += [
        f"  {name:<52}{peak / size:>10,.0f} MB; ours: 1/{peak / ours:,.1f}"
        for name, peak in theirs.items()
    ]
    return lines


def profile_lines(name: str, found: dict[str, Any]) -> list[str]:
    """Return the processor time of each step as text."""
    steps, floor = found["milliseconds_per_1000_cells"], found["floor"]
    total = sum(steps.values())
    sentences = sum(ms for step, ms in steps.items() if step not in OF_TOKENS)
    lines = [f"{name}: {found['cells']:,} cells, one process; processor ms for 1,000 cells"]
    lines += [f"  {step:<26}{ms:>8.2f}{ms / total:>8.0%}" for step, ms in steps.items()]
    for what, ms in (("all", total), ("without tokens", sentences)):
        lines.append(
            f"  {what:<26}{ms:>8.2f}   {ms / floor:,.0f} × adding up the bytes in memory ({floor:.2f});"
            f" {1e6 / ms:,.0f} cells a second"
        )
    return lines


def spread(values: list[float], digits: int = 0) -> str:
    if not values:
        return "-"
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


if __name__ == "__main__":
    sys.exit(main())
