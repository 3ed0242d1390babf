"""A first look at each source: its hash, what is known of its cells, its genes. The matrix is not read.

The look is kept in the corpus folder until the corpus is complete, so that a rerun does not hash a terabyte again:
`work/look-<key>.arrow` holds the fields of every cell, whatever the format of the file. The key is that of the file and
of the way it is read, because the same cells under another name, or read in another way, have other fields.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from c2s.common.errors import UsageError, listing, nearest
from c2s.common.files import atomic_file
from c2s.corpus.recipe import DEFAULT_COLUMNS, FIELDS, SourceRecipe
from c2s.corpus.sources import CellSource, digest, open_source

#: Digits of a source's hash that name it.
SHORT = 12

#: What a cell without a donor is counted under.
UNKNOWN_DONOR = "unknown"


@dataclass(frozen=True)
class SourceFile:
    """One file, and how it is to be read."""

    path: str
    """As found by the recipe; relative paths are relative to the recipe's folder."""
    resolved: str
    recipe: SourceRecipe

    def study_of(self, study: str | None) -> str:
        """Return the study of a cell; cells without one belong to a study named after the file."""
        return Path(self.path).stem if study is None else study

    def open(self, scratch: Path, sha256: str) -> CellSource:
        """Open it; `scratch` is where a matrix stored by gene is rewritten by cell, once for its hash."""
        return open_source(
            self.resolved,
            layer=self.recipe.layer,
            gene_names=self.recipe.gene_names,
            kind=self.recipe.kind,
            scratch=scratch,
            content=sha256,
        )


@dataclass(frozen=True)
class SourceIndex:
    """What the first look found."""

    path: str
    sha256: str
    n_cells: int
    n_genes: int
    n_kept: int
    """Cells that pass the recipe's `keep`."""
    stored: int | None
    """Values that the matrix stores; None for a dense one."""
    donors: dict[str, dict[str, int]]
    """Cells by study and donor, those that are kept."""
    values: dict[str, list[str]]
    """The different values of each field, sorted."""
    without: dict[str, int]
    """Kept cells that lack a field."""
    words: str
    """SHA-256 of the gene words, in order."""
    look: str
    """Names the files of this look."""


def index_source(file: SourceFile, work: Path, *, hashed: bool = True) -> SourceIndex:
    """Look at a source, or return the look of an earlier run if the file has not changed since.

    Parameters
    ----------
    file
        What to look at.
    work
        Where looks are kept.
    hashed
        Read the whole file for its hash; else its name and size stand for it.

    Raises
    ------
    InputError
        The file cannot be read.
    UsageError
        A column that the recipe names is not there.
    """
    look = _look_key(file)
    note = work / f"look-{look}.json"
    if note.is_file():
        try:
            index = SourceIndex(**json.loads(note.read_bytes()))
        except (ValueError, TypeError):
            pass  # a damaged note is made again
        else:
            if fields_path(work, look).is_file() and words_path(work, look).is_file():
                return index
    sha = digest(file.resolved) if hashed else hashlib.sha256(look.encode()).hexdigest()
    source = file.open(work, sha)
    try:
        table, kept = _fields(source, file)
        index = _summary(file, sha, look, source, table, kept)
        words = source.vocabulary.words
    finally:
        source.close()
    with (
        atomic_file(fields_path(work, look)) as path,
        pa.OSFile(str(path), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    with atomic_file(words_path(work, look)) as path:
        path.write_text("\n".join(words), "utf-8")
    with atomic_file(note) as path:
        path.write_text(json.dumps(asdict(index), ensure_ascii=False), "utf-8")
    return index


def fields_path(work: Path, look: str) -> Path:
    """Return where the fields of a source's cells are kept."""
    return work / f"look-{look}.arrow"


def words_path(work: Path, look: str) -> Path:
    """Return where the gene words of a source are kept."""
    return work / f"look-{look}.words"


def stamp(path: str) -> list[int]:
    """Return the size and the time of change of a file; empty for a folder or packaged data."""
    if not Path(path).is_file():
        return []
    facts = Path(path).stat()
    return [facts.st_size, facts.st_mtime_ns]


def read_fields(work: Path, look: str, start: int = 0, stop: int | None = None) -> pa.Table:
    """Return the fields of some cells, or all, and `kept`: whether the recipe's `keep` takes them."""
    with pa.memory_map(str(fields_path(work, look))) as handle:
        return (
            pa.ipc.open_file(handle).read_all().slice(start, None if stop is None else stop - start)
        )


def _look_key(file: SourceFile) -> str:
    """Return a key that changes when the file or the way to read it does, 24 digits."""
    facts: list[Any] = [file.path, file.recipe.model_dump(mode="json", exclude={"data"})]
    path = Path(file.resolved)
    members = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    facts += [(str(m), m.stat().st_size, m.stat().st_mtime_ns) for m in members]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _fields(source: CellSource, file: SourceFile) -> tuple[pa.Table, np.ndarray]:
    columns: dict[str, pa.Array] = {}
    there = source.columns()
    for field in FIELDS:
        name = file.recipe.columns.get(field)
        if name is not None and name not in there:
            raise UsageError(_no_column(file, name, f"columns.{field}", there))
        if name is None and field not in file.recipe.values:
            name = next((c for c in DEFAULT_COLUMNS[field] if c in there), None)
        if name is not None:
            columns[field] = source.column(name)
        else:
            value = file.recipe.values.get(field)
            if value is None and field == "study":
                value = file.study_of(None)
            columns[field] = _constant(value, source.n_cells)
    kept = np.ones(source.n_cells, bool)
    for name, wanted in file.recipe.keep.items():
        if name not in there:
            raise UsageError(_no_column(file, name, "keep", there))
        kept &= _matches(source.column(name), wanted)
    columns["kept"] = pa.array(kept)
    return pa.table(columns), kept


def _no_column(file: SourceFile, name: str, field: str, there: list[str]) -> str:
    close = nearest(name, there, 1)
    return f"{file.path}: obs has no column {name!r}, which the recipe names in {field!r}; " + (
        f"did you mean {close[0]!r}?" if close else f"it has: {listing(there) or 'none'}"
    )


def _constant(value: str | None, n: int) -> pa.DictionaryArray:
    codes = pa.array(np.zeros(n, np.int32)) if value is not None else pa.nulls(n, pa.int32())
    return pa.DictionaryArray.from_arrays(
        codes, pa.array([] if value is None else [value], pa.string())
    )


def _matches(column: pa.DictionaryArray, wanted: str | bool | list[str]) -> np.ndarray:
    allowed = [wanted] if isinstance(wanted, str | bool) else wanted
    texts = {str(w).casefold() for w in allowed}
    good = np.array([str(v).casefold() in texts for v in column.dictionary.to_pylist()] + [False])
    return good[codes_of(column)]


def codes_of(column: pa.DictionaryArray | pa.ChunkedArray) -> np.ndarray:
    """Return the codes of a dictionary column, −1 where the value is missing. int32, shape (n,)."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0)
    return pc.fill_null(column.indices, -1).to_numpy(zero_copy_only=False).astype(np.int32)


def dictionary_of(column: pa.ChunkedArray | pa.DictionaryArray) -> list[str]:
    """Return the values that the codes of a dictionary column stand for."""
    if isinstance(column, pa.ChunkedArray):
        return [] if column.num_chunks == 0 else column.chunk(0).dictionary.to_pylist()
    return column.dictionary.to_pylist()


def _summary(
    file: SourceFile, sha: str, look: str, source: CellSource, table: pa.Table, kept: np.ndarray
) -> SourceIndex:
    codes = {f: codes_of(table[f])[kept] for f in FIELDS}
    names = {f: dictionary_of(table[f]) for f in FIELDS}
    n_donors = len(names["donor"]) + 1  # and those that are missing
    pairs, counts = np.unique(
        codes["study"].astype(np.int64) * n_donors + codes["donor"] + 1, return_counts=True
    )
    donors: dict[str, dict[str, int]] = {}
    for pair, n in zip(pairs.tolist(), counts.tolist(), strict=True):
        study, donor = pair // n_donors, pair % n_donors - 1
        known = None if study < 0 else names["study"][study]
        of_study = donors.setdefault(file.study_of(known), {})
        key = UNKNOWN_DONOR if donor < 0 else names["donor"][donor]
        of_study[key] = of_study.get(key, 0) + n
    stored = source.stored()
    return SourceIndex(
        path=file.path,
        sha256=sha,
        n_cells=source.n_cells,
        n_genes=len(source.vocabulary),
        n_kept=int(kept.sum()),
        stored=None if stored is None else int(stored[-1]),
        donors=donors,
        values={f: sorted(names[f][c] for c in np.unique(codes[f]) if c >= 0) for f in FIELDS},
        without={f: int((codes[f] < 0).sum()) for f in FIELDS},
        words=hashlib.sha256("\n".join(source.vocabulary.words).encode()).hexdigest(),
        look=look,
    )
