"""Reading a corpus for people: its counts, and samples as text."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError, listing
from c2s.common.seeds import generator
from c2s.corpus.shards import LAYOUT, TokenShard
from c2s.corpus.splits import BY_CELL, CORPUS_PARTS
from c2s.tokens.tokenizer import CellTokenizer, load_tokenizer


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return the manifest of a corpus.

    Raises
    ------
    InputError
        There is none, it is damaged, or of another layout.
    """
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        unfinished = (Path(folder) / "work").is_dir()
        raise InputError(
            f"{folder}: "
            + (
                "holds a corpus that is not complete; run c2s corpus build again"
                if unfinished
                else "is no corpus: it has no manifest.json"
            )
        )
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: is damaged ({error}); run c2s corpus build again") from error
    if not isinstance(manifest, dict) or not manifest.keys() >= {"layout", "recipe", "files"}:
        raise InputError(f"{path}: is no manifest of a corpus; give a folder of c2s corpus build")
    if manifest["layout"] != LAYOUT:
        raise InputError(
            f"{path}: the corpus has layout {manifest['layout']!r}; this version reads layout {LAYOUT}; build it anew"
        )
    return manifest


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a manifest says; it is kept under `digest`, so that a change is seen."""
    content = {name: value for name, value in manifest.items() if name != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def split_digests(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return, by study, a digest of what decides which of its cells are held out, whatever else is drawn from them."""
    recipe = manifest["recipe"]
    drawn = [recipe["split"]["fractions"], recipe["seed"]]
    found = {}
    for study, parts in manifest["splits"].items():
        # Only where cells are drawn one by one are they not named.
        decides = [parts, drawn if BY_CELL in parts.values() else None]
        text = json.dumps(decides, sort_keys=True)
        found[study] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


def corpus_tokenizer(folder: str | Path, manifest: Mapping[str, Any]) -> CellTokenizer:
    """Return the tokenizer of a corpus, with all its genes.

    Raises
    ------
    InputError
        A file is missing or damaged.
    """
    path = Path(folder) / "genes.txt"
    try:
        words = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read; run c2s corpus build again") from error
    backend = load_tokenizer(Path(folder) / "tokenizer")
    return CellTokenizer(backend, GeneVocabulary.from_words(words), manifest["tokenizer"]["mode"])


def statistics(folder: str | Path) -> dict[str, Any]:
    """Return the counts of a corpus.

    Returns
    -------
    dict
        `cells`, `samples`, `tokens` and `sequences` by split (samples and tokens by task too); `fill`: share of the
        places of packed sequences that hold a token, by split; `labels`: cells by split, field and value, the
        commonest first; `dropped`; `bytes`.
    """
    manifest = read_manifest(folder)
    context = manifest["recipe"]["context"]
    labels: dict[str, dict[str, Counter[str]]] = {}
    for path in sorted((Path(folder) / "units").glob("*.json")):
        for part, fields in _record(path)["labels"].items():
            for name, counts in fields.items():
                labels.setdefault(part, {}).setdefault(name, Counter()).update(counts)
    tokens = {part: sum(by_task.values()) for part, by_task in manifest["tokens"].items()}
    return {
        **{
            name: manifest[name]
            for name in ("cells", "samples", "tokens", "sequences", "dropped", "notes")
        },
        "fill": {p: tokens[p] / (n * context) for p, n in manifest["sequences"].items()},
        "labels": {
            part: {name: dict(counts.most_common()) for name, counts in fields.items()}
            for part, fields in labels.items()
        },
        "bytes": sum(facts["bytes"] for facts in manifest["files"].values()),
    }


def _record(path: Path) -> dict[str, Any]:
    try:
        return {"labels": {}} | dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: is damaged; run c2s corpus build again") from error


@dataclass(frozen=True)
class ShownSample:
    """A sample as text."""

    task: str
    split: str
    study: str | None
    wording: int
    n_tokens: int
    cells: list[int]
    """Rows of the source."""
    source: str
    """First digits of the source's hash."""
    prompt: str
    response: str


def show_samples(
    folder: str | Path,
    n: int = 5,
    *,
    split: str | None = None,
    task: str | None = None,
    seed: int = 0,
) -> list[ShownSample]:
    """Return some samples of a corpus as text, drawn at random; each has the same chance.

    Parameters
    ----------
    split, task
        Only of this split or this task.

    Raises
    ------
    UsageError
        The corpus has no such split or task.
    """
    manifest = read_manifest(folder)
    counts = manifest["samples"]
    _check_choice("split", split, [p for p in CORPUS_PARTS if p in counts])
    _check_choice("task", task, sorted({t for by_task in counts.values() for t in by_task}))
    shards = [
        (name, facts["rows"])
        for name, facts in sorted(manifest["files"].items())
        if name.startswith("tokens/") and (split is None or name.split("/")[1] == split)
    ]
    tokenizer = corpus_tokenizer(folder, manifest)
    order = _shuffled(sum(rows for _, rows in shards), generator(seed, "show"))
    found = _of_task(Path(folder), shards, order, task)
    return [_as_text(shard, i, tokenizer) for _, (shard, i) in zip(range(n), found, strict=False)]


def _check_choice(what: str, value: str | None, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise UsageError(f"the corpus has no {what} {value!r}; it has: {listing(list(known))}")


def _shuffled(n: int, rng: np.random.Generator) -> Iterator[int]:
    """Yield 0 … n - 1 in random order, in memory of those that were taken: a corpus has millions of samples."""
    moved: dict[int, int] = {}  # what stands at a place, where that is not its own number
    for i in range(n):
        j = int(rng.integers(i, n))
        yield moved.get(j, j)
        moved[j] = moved.pop(i, i)


def _of_task(
    folder: Path, shards: Sequence[tuple[str, int]], order: Iterable[int], task: str | None
) -> Iterator[tuple[TokenShard, int]]:
    ends = np.cumsum([rows for _, rows in shards])
    opened: dict[int, tuple[TokenShard, list[str]]] = {}
    for position in order:
        k = int(np.searchsorted(ends, position, side="right"))
        if k not in opened:
            shard = TokenShard(folder / shards[k][0])
            opened[k] = (shard, shard.column("task").to_pylist() if task is not None else [])
        shard, tasks = opened[k]
        i = position - int(ends[k]) + shards[k][1]
        if task is None or tasks[i] == task:
            yield shard, i


def _as_text(shard: TokenShard, i: int, tokenizer: CellTokenizer) -> ShownSample:
    tokens, prompt = shard.tokens(i), shard.prompt_length(i)
    return ShownSample(
        task=shard.column("task")[i].as_py(),
        split=shard.facts.split,
        study=shard.column("study")[i].as_py(),
        wording=shard.column("wording")[i].as_py(),
        n_tokens=len(tokens),
        cells=shard.column("cells")[i].as_py(),
        source=shard.facts.source[:12],
        prompt=tokenizer.decode(tokens[:prompt]),
        response=tokenizer.decode(tokens[prompt:-1]).strip(),
    )
