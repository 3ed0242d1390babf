"""Checking a finished corpus: every byte, and what must hold between its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from c2s.common.errors import C2SError
from c2s.common.files import sha256
from c2s.corpus.engines import map_here
from c2s.corpus.index import UNKNOWN_DONOR
from c2s.corpus.shards import TokenShard
from c2s.corpus.show import read_manifest
from c2s.corpus.splits import BY_CELL, CORPUS_PARTS
from c2s.tasks.registry import TASKS

#: Fingerprints of cells that are held in memory at a time when equal cells are looked for.
_FINGERPRINTS = 1 << 24


@dataclass
class UnitCheck:
    """What was found in the files of one unit."""

    problems: list[str] = field(default_factory=list)
    cells: Counter[str] = field(default_factory=Counter)
    samples: Counter[tuple[str, str]] = field(default_factory=Counter)
    tokens: Counter[tuple[str, str]] = field(default_factory=Counter)


def verify_corpus(folder: str | Path, *, workers: int, on_unit: Callable[[int], None]) -> list[str]:
    """Check a corpus; return what is wrong with it, a line each, nothing for an intact one.

    Checked are: the hash of every file and that there is no other; that no cell stands in two splits, by its id and by
    the content of its counts; that the donors of a study stand in the split that the manifest says; that no sample is
    longer than the context, none is cut (each ends in end-of-text) and none uses a cell of another split; that samples
    of several cells take them from one donor and tissue; and that all counts are those of the manifest.

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
        There is no complete corpus.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    problems = _files_there(folder, manifest)
    units = sorted({Path(name).stem for name in manifest["files"]})
    checks: list[UnitCheck] = []
    for outcome in map_here(
        partial(_check_unit, str(folder)), units, min(workers, max(len(units), 1))
    ):
        on_unit(1)
        if outcome.result is None:
            problems.append(str(outcome.error))
        else:
            problems += outcome.result.problems
            checks.append(outcome.result)
    if not problems:
        problems += _counts(manifest, checks)
        problems += _equal_cells(folder, manifest)
    return sorted(problems)


def _files_there(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    listed = set(manifest["files"])
    there = {
        str(p.relative_to(folder))
        for part in ("cells", "tokens")
        for p in (folder / part).rglob("*")
        if p.is_file()
    }
    problems = [
        f"{folder / name}: is listed in the manifest and is not there" for name in listed - there
    ]
    problems += [f"{folder / name}: is not listed in the manifest" for name in there - listed]
    tokenizer = folder / "tokenizer" / "tokenizer.json"
    if not tokenizer.is_file() or sha256(tokenizer) != manifest["tokenizer"]["sha256"]:
        problems.append(f"{tokenizer}: is not the tokenizer that the corpus was made with")
    return problems


@lru_cache(maxsize=1)
def _manifest(folder: str) -> dict[str, Any]:
    return read_manifest(folder)


def _check_unit(folder: str, unit: str) -> UnitCheck:
    """Check the files of one unit: hashes first, then what they hold."""
    root = Path(folder)
    manifest = _manifest(folder)
    check = UnitCheck()
    names = [n for n in manifest["files"] if Path(n).stem == unit and (root / n).is_file()]
    for name in names:
        if sha256(root / name) != manifest["files"][name]["sha256"]:
            check.problems.append(
                f"{root / name}: its bytes are not those that were written; run c2s corpus build again to mend it"
            )
    if check.problems:
        return check
    split_of: dict[int, str] = {}
    samples_of: dict[int, tuple[str | None, ...]] = {}
    for name in (n for n in names if n.startswith("cells/")):
        _check_cells(root / name, name.split("/")[1], manifest, split_of, samples_of, check)
    for name in (n for n in names if n.startswith("tokens/")):
        try:
            shard = TokenShard(root / name)
        except C2SError as error:
            check.problems.append(str(error))
            continue
        _check_tokens(shard, manifest, split_of, samples_of, check)
        shard.close()
    return check


def _check_cells(
    path: Path,
    part: str,
    manifest: Mapping[str, Any],
    split_of: dict[int, str],
    samples_of: dict[int, tuple[str | None, ...]],
    check: UnitCheck,
) -> None:
    table = pq.read_table(path, columns=["row", "study", "donor", "tissue"])
    rows = table["row"].to_pylist()
    again = [r for r in rows if r in split_of]
    if again:
        check.problems.append(f"{path}: cell {again[0]} stands in {split_of[again[0]]} too")
    if len(set(rows)) != len(rows):
        check.problems.append(f"{path}: holds a cell twice")
    columns = [table[c].cast(pa.string()).to_pylist() for c in ("study", "donor", "tissue")]
    for row, sample in zip(rows, zip(*columns, strict=True), strict=True):
        split_of[row] = part
        samples_of[row] = sample
    check.cells[part] += len(rows)
    stem = _file_study(manifest, path)
    for study, donor in {(s, d) for s, d, _ in samples_of.values()}:
        said = manifest["splits"][study or stem].get(donor or UNKNOWN_DONOR)
        here = {split_of[r] for r, (s, d, _) in samples_of.items() if (s, d) == (study, donor)}
        if said != BY_CELL and here != {said}:
            check.problems.append(
                f"{path}: donor {donor} of {study} stands in {', '.join(sorted(here))}; the manifest says {said}"
            )


def _file_study(manifest: Mapping[str, Any], path: Path) -> str:
    source = path.stem.split("-")[0]
    name = next(s["path"] for s in manifest["sources"] if s["sha256"].startswith(source))
    return Path(name).stem


def _check_tokens(
    shard: TokenShard,
    manifest: Mapping[str, Any],
    split_of: Mapping[int, str],
    samples_of: Mapping[int, tuple[str | None, ...]],
    check: UnitCheck,
) -> None:
    facts, context = shard.facts, manifest["recipe"]["context"]
    lengths = shard.lengths()
    prompts = shard.column("prompt_length").to_numpy()
    tasks = shard.column("task").to_pylist()

    def wrong(bad: np.ndarray, what: str) -> None:
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            check.problems.append(f"{shard.path}: sample {first} {what} ({int(bad.sum()):,} such)")

    wrong(lengths > context, f"is longer than the context of {context:,} tokens")
    wrong((prompts < 1) | (prompts >= lengths - 1), "has no prompt or no response")
    last = np.array([shard.tokens(i)[-1] for i in range(len(shard))])
    wrong(last != facts.end_of_text, "does not end in end-of-text")
    most = np.array([shard.tokens(i).max() for i in range(len(shard))])
    wrong(most >= facts.vocab_size, "has a token that the tokenizer does not have")
    starts = np.concatenate([[0], np.cumsum(lengths)])[shard.sample_starts]
    if (np.diff(starts) > context).any():
        check.problems.append(f"{shard.path}: a packed sequence is longer than the context")
    for i, cells in enumerate(shard.column("cells").to_pylist()):
        if {split_of.get(c) for c in cells} - {facts.split}:
            check.problems.append(
                f"{shard.path}: sample {i} uses a cell that is not in {facts.split}"
            )
        kind = TASKS[tasks[i]].kind
        if kind == "multi" and (
            len(set(cells)) != len(cells) or len({samples_of[c] for c in cells}) != 1
        ):
            check.problems.append(
                f"{shard.path}: sample {i} mixes donors or tissues, or repeats a cell"
            )
    for task, length in zip(tasks, lengths.tolist(), strict=True):
        check.samples[facts.split, task] += 1
        check.tokens[facts.split, task] += length


def _counts(manifest: Mapping[str, Any], checks: Sequence[UnitCheck]) -> list[str]:
    """Compare what the files hold with what the manifest says."""
    problems = []
    cells = sum((c.cells for c in checks), Counter[str]())
    if dict(cells) != manifest["cells"]:
        problems.append(
            f"the manifest counts {manifest['cells']} cells, the files hold {dict(cells)}"
        )
    for name in ("samples", "tokens"):
        found: Counter[tuple[str, str]] = sum((getattr(c, name) for c in checks), Counter())
        said = {(p, t): n for p, by_task in manifest[name].items() for t, n in by_task.items()}
        if dict(found) != said:
            problems.append(f"the manifest's counts of {name} are not those of the files")
    return problems


def _equal_cells(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Look for cells of equal content in two splits, with a bounded number of fingerprints in memory."""
    files = [n for n in sorted(manifest["files"]) if n.startswith("cells/")]
    passes = -(-sum(manifest["cells"].values()) // _FINGERPRINTS) or 1
    number = {part: k for k, part in enumerate(CORPUS_PARTS)}
    equal, example = 0, ""
    for turn in range(passes):
        prints, splits, places = [], [], []
        for name in files:
            table = pq.read_table(folder / name, columns=["content", "cell_id"])
            content = table["content"].to_numpy()
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
