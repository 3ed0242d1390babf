"""Checking a finished corpus: every byte, and what must hold between its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from c2s.common.errors import InputError
from c2s.common.files import sha256
from c2s.common.seeds import cell_keys
from c2s.corpus.engines import map_here
from c2s.corpus.index import SHORT, UNKNOWN_DONOR
from c2s.corpus.shards import TokenShard
from c2s.corpus.show import manifest_digest, read_manifest
from c2s.corpus.splits import BY_CELL, CORPUS_PARTS, PARTS, split_by_hash
from c2s.tasks.registry import TASKS

#: Fingerprints of cells that are held in memory at a time when equal cells are looked for.
_FINGERPRINTS = 1 << 24

#: What the cells of one sample share (SPEC §4.1).
_SAMPLE = ["study", "donor", "tissue", "organism"]

#: Folders of a corpus in which every file is known.
_FOLDERS = ("cells", "tokens", "units", "tokenizer")


@dataclass
class UnitCheck:
    """What was found in the files of one unit."""

    problems: list[str] = field(default_factory=list)
    cells: Counter[str] = field(default_factory=Counter)
    samples: Counter[tuple[str, str]] = field(default_factory=Counter)
    tokens: Counter[tuple[str, str]] = field(default_factory=Counter)
    sequences: Counter[str] = field(default_factory=Counter)


def verify_corpus(folder: str | Path, *, workers: int, on_unit: Callable[[int], None]) -> list[str]:
    """Check a corpus; return what is wrong with it, a line each, nothing for an intact one.

    Checked are: the hash of every file (but of the card `README.md`, which people edit) and that there is no other;
    that no cell stands in two splits, by its id and by the content of its counts; that the donors of a study stand in
    the split that the manifest says, and cells that were split one by one where their ids say; that no sample is
    longer than the context, none is cut (each ends in end-of-text) and none uses a cell of another split; that samples
    of several cells take them from one donor and tissue; and that all counts are those of the manifest. What stands
    on a file that is wrong is not checked: a fault is told once.

    Parameters
    ----------
    folder
        The corpus.
    workers
        Processes.
    on_unit
        Told of every checked unit.

    Raises
    ------
    InputError
        There is no complete corpus, or its manifest cannot be used.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if not manifest.keys() >= {"other files", "digest"}:
        raise InputError(
            f"{folder / 'manifest.json'}: lacks the hashes of the other files; run c2s corpus build again"
        )
    problems = _files_there(folder, manifest)
    units = sorted({Path(name).stem for name in manifest["files"]})
    checks: list[UnitCheck] = []
    for outcome in map_here(
        partial(_check_unit, str(folder), manifest_digest(manifest)),
        units,
        min(workers, max(len(units), 1)),
    ):
        on_unit(1)
        if outcome.result is None:
            problems.append(str(outcome.error))
        else:
            problems += outcome.result.problems
            checks.append(outcome.result)
    if not problems:
        problems += _counts(folder, manifest, checks)
        problems += _equal_cells(folder, manifest)
    return sorted(problems)


def _files_there(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Check which files there are, and the bytes of those that are no shards."""
    others: dict[str, str] = manifest["other files"]
    listed = set(manifest["files"]) | set(others)
    there = {
        str(p.relative_to(folder)) for part in _FOLDERS for p in (folder / part).rglob("*")
        if p.is_file()
    } | {name for name in others if (folder / name).is_file()}  # fmt: skip
    problems = [
        f"{folder / name}: is listed in the manifest and is not there" for name in listed - there
    ]
    problems += [f"{folder / name}: is not listed in the manifest" for name in there - listed]
    problems += [
        _damaged(folder / name)
        for name, hashed in others.items()
        if name in there and sha256(folder / name) != hashed
    ]
    if manifest_digest(manifest) != manifest["digest"]:
        problems.append(_damaged(folder / "manifest.json"))
    return problems


def _damaged(path: Path) -> str:
    return (
        f"{path}: its bytes are not those that were written; run c2s corpus build again to mend it"
    )


@lru_cache(maxsize=1)
def _by_unit(folder: str, digest: str) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return the manifest, and the files of each unit."""
    del digest  # a folder that was built anew is not the one that is remembered
    manifest = read_manifest(folder)
    units: dict[str, list[str]] = {}
    for name in manifest["files"]:
        units.setdefault(Path(name).stem, []).append(name)
    return manifest, units


def _check_unit(folder: str, digest: str, unit: str) -> UnitCheck:
    """Check the files of one unit: hashes first, then what they hold."""
    root = Path(folder)
    manifest, units = _by_unit(folder, digest)
    check = UnitCheck()
    names = [n for n in units[unit] if (root / n).is_file()]
    for name in names:
        if sha256(root / name) != manifest["files"][name]["sha256"]:
            check.problems.append(_damaged(root / name))
    if check.problems or len(names) < len(units[unit]):
        return check
    cells = _cells(root, [n for n in names if n.startswith("cells/")])
    check.problems += _check_cells(root, unit, cells, manifest)
    check.cells.update(cells["part"].tolist())
    for name in names:
        if name.startswith("tokens/") and not check.problems:
            shard = TokenShard(root / name)
            _check_tokens(shard, name, cells, manifest, check)
            shard.close()
    return check


# --- cells --------------------------------------------------------------------------------------


def _cells(root: Path, names: Sequence[str]) -> pd.DataFrame:
    """Return the cells of a unit, by row of the source, with the split that each stands in."""
    columns = ["cell_id", "row", *_SAMPLE]
    tables = []
    for name in names:
        try:
            table = pq.read_table(root / name, columns=columns).to_pandas()
        except (OSError, pa.ArrowException, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"{root / name}: cannot be read as cells of a corpus ({reason})"
            ) from error
        tables.append(table.assign(part=name.split("/")[1]))
    empty = pd.DataFrame({c: [] for c in (*columns, "part")}).astype({"row": np.int64})
    cells = pd.concat(tables, ignore_index=True) if tables else empty
    # As plain objects: the categories of the files differ.
    cells[_SAMPLE] = cells[_SAMPLE].astype(object).where(cells[_SAMPLE].notna(), None)
    return cells.sort_values("row", kind="stable", ignore_index=True)


def _check_cells(
    root: Path, unit: str, cells: pd.DataFrame, manifest: Mapping[str, Any]
) -> list[str]:
    """Check that each cell stands where its donor, or its id, says."""
    where = f"{root / 'cells'}/*/{unit}.parquet"
    source = unit.split("-")[0]
    right = source + ":" + cells["row"].astype(str)
    if (cells["cell_id"] != right).any():
        bad = cells[cells["cell_id"] != right].iloc[0]
        return [f"{where}: the cell of row {bad['row']} has the id {bad['cell_id']!r}"]
    twice = cells["row"].duplicated(keep=False)
    if twice.any():
        first = cells[twice].iloc[:2]
        return [
            f"{where}: cell {first['cell_id'].iloc[0]} stands twice, in {' and '.join(first['part'])}"
        ]
    problems = []
    recipe = manifest["recipe"]
    keys = cell_keys(cells["cell_id"].to_numpy(dtype=object), recipe["seed"] + 1)
    by_id = np.array(PARTS)[split_by_hash(keys, tuple(recipe["split"]["fractions"]))]
    named = cells[["study", "donor"]].to_numpy(dtype=object)
    for rows in cells.groupby(["study", "donor"], dropna=False, sort=True).indices.values():
        study, donor = named[rows[0]]
        study = _file_study(manifest, source) if study is None else study
        of_study = manifest["splits"].get(study, {})
        said = of_study.get(UNKNOWN_DONOR if donor is None else donor, "no split")
        wrong = rows[cells["part"].to_numpy()[rows] != (by_id[rows] if said == BY_CELL else said)]
        if len(wrong):
            told = "its id another" if said == BY_CELL else f"the manifest {said}"
            problems.append(
                f"{where}: cell {cells['cell_id'][wrong[0]]} of donor {donor} of {study} stands in"
                f" {cells['part'][wrong[0]]}, {told} ({len(wrong):,} such)"
            )
    return problems


def _file_study(manifest: Mapping[str, Any], source: str) -> str:
    """Return what cells without a study are counted under."""
    name = next(s["path"] for s in manifest["sources"] if s["sha256"].startswith(source))
    return Path(name).stem


# --- tokens -------------------------------------------------------------------------------------


def _check_tokens(
    shard: TokenShard,
    name: str,
    cells: pd.DataFrame,
    manifest: Mapping[str, Any],
    check: UnitCheck,
) -> None:
    """Check a shard by itself, and against the cells of its unit."""
    part, context = name.split("/")[1], manifest["recipe"]["context"]
    facts = shard.facts
    found = (facts.source[:SHORT], facts.split, facts.context, facts.tokenizer)
    if found != (Path(name).name[:SHORT], part, context, manifest["tokenizer"]["sha256"]):
        check.problems.append(
            f"{shard.path}: was made of another source, for another split or context, or with another tokenizer"
        )
        return

    def wrong(bad: np.ndarray, what: str) -> None:
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            check.problems.append(f"{shard.path}: sample {first} {what} ({int(bad.sum()):,} such)")

    lengths = shard.lengths()
    prompts = shard.column("prompt_length").to_numpy()
    tasks = shard.column("task").to_pylist()
    cut = (prompts < 1) | (prompts >= lengths - 1)
    wrong(np.array([t not in TASKS for t in tasks], bool), "has no task")
    wrong(lengths > context, f"is longer than the context of {context:,} tokens")
    wrong(cut, "has no prompt or no response")
    if check.problems:
        return
    last, most = _last_and_most(shard)
    wrong(last != facts.end_of_text, "does not end in end-of-text")
    wrong(most >= facts.vocab_size, "has a token that the tokenizer does not have")
    starts = np.concatenate([[0], np.cumsum(lengths)])[shard.sample_starts]
    if (np.diff(starts) > context).any():
        check.problems.append(f"{shard.path}: a packed sequence is longer than the context")
    for bad, what in _cells_of_samples(shard, tasks, part, cells):
        wrong(bad, what)
    for task, length in zip(tasks, lengths.tolist(), strict=True):
        check.samples[part, task] += 1
        check.tokens[part, task] += length
    check.sequences[part] += shard.n_sequences


def _last_and_most(shard: TokenShard) -> tuple[np.ndarray, np.ndarray]:
    """Return the last and the largest token of each sample; none is empty."""
    last, most = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for column in shard.column("tokens").chunks:
        offsets, values = column.offsets.to_numpy(), column.values.to_numpy()
        last.append(values[offsets[1:] - 1].astype(np.int64))
        most.append(np.maximum.reduceat(values[: offsets[-1]], offsets[:-1]).astype(np.int64))
    return np.concatenate(last), np.concatenate(most)


def _cells_of_samples(
    shard: TokenShard, tasks: Sequence[str], part: str, cells: pd.DataFrame
) -> list[tuple[np.ndarray, str]]:
    """Return which samples use cells that they must not; the first fault of each counts."""
    column = shard.column("cells").combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # of no chunk
        return []
    counts = np.diff(column.offsets.to_numpy())
    sample = np.repeat(np.arange(len(counts)), counts)
    rows = column.flatten().to_numpy()
    known = cells["row"].to_numpy()
    at = np.minimum(np.searchsorted(known, rows), max(len(known) - 1, 0))
    there = np.zeros(len(rows), bool) if not len(known) else known[at] == rows
    there &= (cells["part"] == part).to_numpy()[at] if len(known) else False
    kinds = np.array([TASKS[t].kind for t in tasks])
    number = {"single": counts != 1, "gene_set": counts != 0, "multi": counts < 1}
    wrong_number = np.select([kinds == k for k in number], list(number.values()))
    away = _any(sample, ~there, len(counts))
    order = np.lexsort((rows, sample))
    twice = (np.diff(rows[order]) == 0) & (np.diff(sample[order]) == 0)
    again = _any(sample[order][1:], twice, len(counts))
    mixed = np.zeros(len(counts), bool)
    if len(known):
        group = cells.groupby(_SAMPLE, dropna=False, sort=False).ngroup().to_numpy()[at]
        mixed = _any(sample[1:], (np.diff(group) != 0) & (np.diff(sample) == 0), len(counts))
    return [
        (wrong_number.astype(bool), "has a number of cells that its task does not take"),
        (away, f"uses a cell that is not in {part}"),
        (again & ~away, "repeats a cell"),
        (mixed & ~away & ~again, "mixes donors or tissues"),
    ]


def _any(sample: np.ndarray, bad: np.ndarray, n: int) -> np.ndarray:
    """Return whether anything is bad in each of `n` samples. bool, shape (n,)."""
    return np.bincount(sample[bad], minlength=n) > 0


# --- the whole ----------------------------------------------------------------------------------


def _counts(folder: Path, manifest: Mapping[str, Any], checks: Sequence[UnitCheck]) -> list[str]:
    """Compare what the files hold with what the manifest says."""
    found: dict[str, Counter[Any]] = {
        name: sum((getattr(c, name) for c in checks), Counter())
        for name in ("cells", "sequences", "samples", "tokens")
    }
    said: dict[str, dict[Any, int]] = {name: manifest[name] for name in ("cells", "sequences")}
    for name in ("samples", "tokens"):
        said[name] = {
            (p, t): n for p, by_task in manifest[name].items() for t, n in by_task.items()
        }
    return [
        f"{folder / 'manifest.json'}: its counts of {name} are not those of the files"
        for name in found
        if dict(found[name]) != said[name]
    ]


def _equal_cells(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Look for cells of equal content in two splits, with a bounded number of fingerprints in memory."""
    files = [n for n in sorted(manifest["files"]) if n.startswith("cells/")]
    passes = -(-sum(manifest["cells"].values()) // _FINGERPRINTS) or 1
    number = {part: k for k, part in enumerate(CORPUS_PARTS)}
    equal, example = 0, ""
    for turn in range(passes):
        prints, splits, places = [], [], []
        for name in files:
            content = pq.read_table(folder / name, columns=["content"])["content"].to_numpy()
            mine = np.flatnonzero(content % np.uint64(passes) == turn)
            prints.append(content[mine])
            splits.append(np.full(len(mine), number[name.split("/")[1]], np.int8))
            places.append((name, mine))
        content, split = np.concatenate(prints), np.concatenate(splits)
        order = np.lexsort((split, content))
        same = (np.diff(content[order]) == 0) & (np.diff(split[order]) != 0)
        equal += int(same.sum())
        if same.any() and not example:
            example = " and ".join(
                _cell_at(folder, places, int(order[np.flatnonzero(same)[0] + k])) for k in (0, 1)
            )
    if not equal:
        return []
    return [
        f"{equal:,} cells have the same counts as a cell of another split, such as {example}; the same cells seem to be"
        " in two data sets: leave one out with 'keep', such as is_primary_data: true"
    ]


def _cell_at(folder: Path, places: Sequence[tuple[str, np.ndarray]], position: int) -> str:
    for name, rows in places:
        if position < len(rows):
            cell = pq.read_table(folder / name, columns=["cell_id"])["cell_id"][int(rows[position])]
            return f"{cell.as_py()} ({name.split('/')[1]})"
        position -= len(rows)
    raise IndexError(position)
