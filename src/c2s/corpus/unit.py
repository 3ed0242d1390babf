"""The one pure function of corpus building: a range of rows of one source → its shards and their record.

It reads what the plan left in the corpus folder, writes files whose names and bytes depend only on the source, the
rows and the recipe, and returns a record of them. A process pool or Ray Data maps it; nothing else does work.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from c2s.cells.ranked import RankedCells, rank_matrix
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError
from c2s.common.files import atomic_file, sha256
from c2s.common.seeds import cell_keys, generator
from c2s.corpus import kernels
from c2s.corpus.index import (
    SHORT,
    UNKNOWN_DONOR,
    SourceFile,
    codes_of,
    dictionary_of,
    read_fields,
    stamp,
)
from c2s.corpus.recipe import FIELDS, CorpusRecipe, QualityControl, SourceRecipe
from c2s.corpus.sampling import Drawn, Sample, UnitCells, draw_samples, fit
from c2s.corpus.shards import ShardFacts, pack, write_shard
from c2s.corpus.sources import CellSource
from c2s.corpus.splits import BY_CELL, CORPUS_PARTS, PARTS, split_by_hash
from c2s.knowledge.gene_sets import GeneSet, read_gmt
from c2s.knowledge.pathways import PathwaySets
from c2s.tasks.pathways import Pathways
from c2s.tasks.prompts import PromptPack, load_prompts
from c2s.tokens.assemble import Assembler
from c2s.tokens.tokenizer import CellTokenizer

#: Stored values that are read at a time: the working memory of a process is a small multiple.
_READ_VALUES = 1 << 20


@dataclass(frozen=True)
class Unit:
    """A piece of work: some rows of a source, or the gene sets of a file."""

    kind: Literal["cells", "gene_sets"]
    sha256: str
    start: int
    stop: int
    key: str
    """SHA-256 of all that decides the bytes of its shards."""

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.sha256[:SHORT]}-{self.start:010d}"


@dataclass
class UnitRecord:
    """What a unit wrote, and what it left out."""

    key: str
    kind: str
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By path in the corpus folder: `sha256`, `bytes`, `rows`."""
    cells: dict[str, int] = field(default_factory=dict)
    """By split."""
    samples: dict[str, dict[str, int]] = field(default_factory=dict)
    """By split and task."""
    tokens: dict[str, dict[str, int]] = field(default_factory=dict)
    """By split and task, end-of-text included."""
    sequences: dict[str, int] = field(default_factory=dict)
    """Packed sequences by split."""
    dropped_cells: dict[str, int] = field(default_factory=dict)
    """By reason."""
    dropped_samples: dict[str, int] = field(default_factory=dict)
    """By "task: reason"."""
    labels: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    """Cells by split, field and value."""


class Shared:
    """What the plan left for all units: loaded once in a process.

    Parameters
    ----------
    folder
        The corpus folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        content = json.loads((self.work / "shared.json").read_bytes())
        self.recipe = CorpusRecipe.model_validate(content["recipe"])
        self.splits: dict[str, dict[str, str]] = content["splits"]
        self.gene_set_parts: dict[str, dict[str, str]] = content["gene_sets"]
        self.tokenizer_sha: str = content["tokenizer"]
        self.resolved: dict[str, str] = content["gene_set_files"]
        self.files = {
            sha: SourceFile(f["path"], f["resolved"], SourceRecipe.model_validate(f["recipe"]))
            for sha, f in content["sources"].items()
        }
        self.looks: dict[str, str] = {sha: f["look"] for sha, f in content["sources"].items()}
        self._stamps: dict[str, list[int]] = {
            sha: f["stamp"] for sha, f in content["sources"].items()
        }
        self.pathway_file: dict[str, str] | None = content.get("pathways")
        self._source: tuple[str, CellSource] | None = None
        self._assembler: tuple[str, Assembler] | None = None
        self._pathways: tuple[str, Pathways] | None = None

    @cached_property
    def prompts(self) -> PromptPack:
        """The wording."""
        return load_prompts(self.recipe.prompts)

    @cached_property
    def backend(self) -> Any:
        """The tokenizer."""
        # Not AutoTokenizer, which loads torch: in every process, 140 MB and more than a second for nothing.
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(self.folder / "tokenizer")

    def source(self, sha: str) -> CellSource:
        """Return a source, opened; the one before is closed."""
        if self._source is None or self._source[0] != sha:
            if self._source is not None:
                self._source[1].close()
                self._source = None
            file = self.files[sha]
            if stamp(file.resolved) != self._stamps[sha]:
                raise InputError(
                    f"{file.path}: was changed or removed while the corpus was built; run the same command again"
                )
            self._source = (sha, file.open(self.work, sha))
        return self._source[1]

    def assembler(self, sha: str) -> Assembler:
        """Return what makes tokens of the cells of a source."""
        if self._assembler is None or self._assembler[0] != sha:
            tokenizer = CellTokenizer(self.backend, self.source(sha).vocabulary, self.recipe.tokens)
            self._assembler = (sha, Assembler(tokenizer))
        return self._assembler[1]

    def pathways(self, sha: str) -> Pathways | None:
        """Return what names the pathways of the cells of a source, None where the recipe wants none."""
        wanted, file = self.recipe.pathways, self.pathway_file
        if wanted is None or file is None:
            return None
        if self._pathways is None or self._pathways[0] != sha:
            if sha256(Path(file["resolved"])) != file["sha256"]:
                raise InputError(
                    f"{wanted.gene_sets}: was changed while the corpus was built; run the same command again"
                )
            sets = read_gmt(file["resolved"])
            known = PathwaySets.of(sets, self.source(sha).vocabulary, wanted.min_genes)
            self._pathways = (sha, Pathways(known, wanted.number, frozenset(wanted.tasks)))
        return self._pathways[1]

    def genes(self, sha: str) -> np.ndarray | None:
        """Return which genes of a source are used, or None for all. bool, shape (n_genes,)."""
        quality = self.recipe.quality
        path = genes_path(self.work, sha, self.files[sha].recipe, quality)
        return np.load(path) if quality.min_cells > 1 else None

    def fields(self, unit: Unit) -> pa.Table:
        """Return the fields of a unit's cells, and `kept`; see `read_fields`."""
        return read_fields(self.work, self.looks[unit.sha256], unit.start, unit.stop)

    def abstracts(self, studies: Sequence[str]) -> dict[str, list[str]]:
        """Return the ways to write the abstract of each of some studies that has one."""
        path = self.work / "abstracts.arrow"
        if not path.is_file():
            return {}
        with pa.memory_map(str(path)) as handle:
            table = pa.ipc.open_file(handle).read_all()
            position = {s: i for i, s in enumerate(table["study"].to_pylist())}
            return {s: table["texts"][position[s]].as_py() for s in studies if s in position}


def genes_path(work: Path, sha: str, source: SourceRecipe, quality: QualityControl) -> Path:
    """Return where it is kept which genes of a source are used: another place where other cells would be counted."""
    decides = [
        sha,
        source.model_dump(mode="json", exclude={"data"}),
        quality.model_dump(mode="json"),
    ]
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return work / f"genes-{key[:24]}.npy"


@lru_cache(maxsize=1)
def _shared(folder: str, digest: str) -> Shared:
    del digest  # another plan in the same folder is another Shared
    return Shared(Path(folder))


def shared_digest(folder: Path) -> str:
    """Return what changes when the plan does."""
    return sha256(folder / "work" / "shared.json")


def build_unit(folder: str, plan: str, unit: Unit) -> UnitRecord:
    """Build the shards of a unit, or return its record where they are there and intact.

    Parameters
    ----------
    folder
        The corpus folder, with what the plan left in it.
    plan
        The digest of that (`shared_digest`).
    unit
        The piece of work.

    Raises
    ------
    InputError
        The source cannot be read, or holds values that no expression profile has; the cell and gene are named.
    C2SError
        The disk is full. What was finished stays.
    """
    if unit.start // max(unit.stop - unit.start, 1) % 64 == 0:
        gc.collect()  # worker processes do not collect by themselves; see `engines`
    done = finished(Path(folder), unit, check=True)
    if done is not None:
        return done
    shared = _shared(folder, plan)
    record = _build_cells(shared, unit) if unit.kind == "cells" else _build_gene_sets(shared, unit)
    (shared.folder / "units").mkdir(exist_ok=True)
    text = json.dumps(asdict(record), sort_keys=True, ensure_ascii=False)
    with atomic_file(record_path(shared.folder, unit)) as path:
        path.write_text(text, "utf-8")
    # As a rerun would read it, so that a manifest does not depend on who made the record.
    return UnitRecord(**json.loads(text))


def record_path(folder: Path, unit: Unit) -> Path:
    """Return where the record of a unit is kept."""
    return folder / "units" / f"{unit.name}.json"


def finished(folder: Path, unit: Unit, check: bool) -> UnitRecord | None:
    """Return the record of a unit whose shards are there.

    Parameters
    ----------
    check
        Compare the hashes of the files, not only their sizes.
    """
    path = record_path(folder, unit)
    if not path.is_file():
        return None
    try:
        record = UnitRecord(**json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        return None  # a damaged record is made again
    if record.key != unit.key:
        return None
    for name, facts in record.files.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != facts["bytes"]:
            return None
        if check and sha256(file) != facts["sha256"]:
            return None
    return record


# --- cells --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Looked:
    """The rows of a unit after reading: which stay, and their genes in rank order."""

    rows: np.ndarray
    """Rows of the source that stay. int64, shape (n,)."""
    ranked: RankedCells
    content: np.ndarray
    """Fingerprints of their values. uint64, shape (n,)."""
    expressed: np.ndarray
    """Genes that each of them expresses. int64, shape (n,)."""
    dropped: Counter[str]


def _build_cells(shared: Shared, unit: Unit) -> UnitRecord:
    record = UnitRecord(unit.key, unit.kind)
    table = shared.fields(unit)
    looked = _read_and_rank(shared, unit, table["kept"].to_numpy(zero_copy_only=False))
    record.dropped_cells = dict(sorted(looked.dropped.items()))
    table = table.take(pa.array(looked.rows - unit.start))
    parts = _parts(shared, unit, looked, table)
    sentences = _sentences(shared, unit, looked, table)
    cells = _cells_to_draw_from(shared, looked, table, shared.pathways(unit.sha256))
    dropped: Counter[str] = Counter()
    for k, part in enumerate(CORPUS_PARTS):
        rows = np.flatnonzero(parts == k)
        if not len(rows):
            continue
        record.cells[part] = len(rows)
        record.labels[part] = {f: _counts(table[f], rows) for f in ("study", "tissue", "cell_type")}
        _write_sentences(shared, unit, part, sentences.take(pa.array(rows)), record)
        if cells is None:
            continue
        keys = (unit.sha256, unit.start, part)
        drawn = draw_samples(cells, rows, shared.recipe, shared.prompts, keys)
        if drawn.samples:
            assembler = shared.assembler(unit.sha256)
            _write_tokens(shared, unit, part, drawn, cells, looked.rows, assembler, record)
        dropped += drawn.dropped
    record.dropped_samples = dict(sorted(dropped.items()))
    return record


def _cells_to_draw_from(
    shared: Shared, looked: _Looked, table: pa.Table, pathways: Pathways | None
) -> UnitCells | None:
    """Return what samples are drawn from, or None where the recipe wants none."""
    if not shared.recipe.samples_per_cell:
        return None
    fields: dict[str, list[str | None]] = {f: _texts(table[f]) for f in FIELDS}
    studies = sorted({s for s in fields["study"] if s is not None})
    return UnitCells(looked.ranked, fields, shared.abstracts(studies), pathways)


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    names = [*dictionary_of(column), None]
    return [names[c] for c in codes_of(column).tolist()]


def _counts(column: pa.ChunkedArray, rows: np.ndarray) -> dict[str, int]:
    codes = codes_of(column)[rows]
    found = np.bincount(codes[codes >= 0], minlength=1).tolist()
    return dict(sorted((t, n) for t, n in zip(dictionary_of(column), found, strict=False) if n))


def _parts(shared: Shared, unit: Unit, looked: _Looked, table: pa.Table) -> np.ndarray:
    """Return the part of every cell: its donor's, or for studies of few donors one drawn by its id."""
    by_cell = split_by_hash(
        cell_keys(_ids(unit, looked.rows), shared.recipe.seed + 1), shared.recipe.split.fractions
    )
    number = {part: k for k, part in enumerate(CORPUS_PARTS)}
    parts = np.empty(len(looked.rows), np.int8)
    file = shared.files[unit.sha256]
    codes = [codes_of(table[f]) for f in ("study", "donor")]
    studies, donors = ([*dictionary_of(table[f]), None] for f in ("study", "donor"))
    pairs, which = np.unique(np.stack(codes), axis=1, return_inverse=True)
    which = which.reshape(-1)  # numpy 2.0 gives it another shape
    for k, (study, donor) in enumerate(pairs.T.tolist()):
        of_study = shared.splits[file.study_of(studies[study])]
        part = of_study[UNKNOWN_DONOR if donors[donor] is None else donors[donor]]
        parts[which == k] = by_cell[which == k] if part == BY_CELL else number[part]
    return parts


def _ids(unit: Unit, rows: np.ndarray) -> np.ndarray:
    return np.array([f"{unit.sha256[:SHORT]}:{r}" for r in rows.tolist()], dtype=object)


def _blocks(source: CellSource, unit: Unit) -> Iterator[tuple[int, sp.csr_matrix]]:
    """Yield the rows of a unit in blocks of a bounded number of stored values."""
    stored = source.stored()
    start = unit.start
    while start < unit.stop:
        if stored is None:
            stop = start + max(1, int(_READ_VALUES / max(1.0, source.values_per_row())))
        else:
            stop = int(np.searchsorted(stored, stored[start] + _READ_VALUES, side="right")) - 1
        stop = min(max(stop, start + 1), unit.stop)
        yield start, source.read(start, stop)
        start = stop


def _read_and_rank(shared: Shared, unit: Unit, kept: np.ndarray) -> _Looked:
    source = shared.source(unit.sha256)
    selected = shared.genes(unit.sha256)
    limit = shared.recipe.most_genes
    stored = source.stored()
    n = unit.stop - unit.start
    bound = n * min(limit, len(source.vocabulary))
    if stored is not None:
        bound = min(bound, int(stored[unit.stop] - stored[unit.start]))
    # One array for all blocks; pages that are never written take no memory.
    genes = np.empty(bound, np.int32)
    lengths, rows, content, expressed = [], [], [], []
    dropped: Counter[str] = Counter()
    at = 0
    for start, block in _blocks(source, unit):
        block, seen = look(block, source, start, shared.recipe, kept[start - unit.start :], dropped)
        stay = np.flatnonzero(seen.stays)
        most = np.where(seen.stays, limit, 0)
        ids = _ids(unit, np.arange(start, start + block.shape[0]))
        ranked = rank_matrix(
            block,
            source.vocabulary,
            ids,
            top_k=most,
            selected=selected,
            ties=shared.recipe.ties,
            seed=shared.recipe.draw_seed,
        )
        genes[at : at + len(ranked.genes)] = ranked.genes
        at += len(ranked.genes)
        lengths.append(ranked.lengths[stay])
        rows.append(start + stay)
        content.append(seen.content[stay])
        expressed.append(seen.expressed[stay])
    indptr = np.concatenate([[0], np.cumsum(np.concatenate([*lengths, []]))]).astype(np.int64)
    return _Looked(
        np.concatenate([*rows, []]).astype(np.int64),
        RankedCells(indptr, genes[:at], source.vocabulary),
        np.concatenate([*content, np.empty(0, np.uint64)]),
        np.concatenate([*expressed, []]).astype(np.int64),
        dropped,
    )


@dataclass(frozen=True)
class _Seen:
    stays: np.ndarray
    expressed: np.ndarray
    content: np.ndarray


def look(
    block: sp.csr_matrix,
    source: CellSource,
    start: int,
    recipe: CorpusRecipe,
    kept: np.ndarray,
    dropped: Counter[str],
) -> tuple[sp.csr_matrix, _Seen]:
    """Check a block of rows and say which cells stay.

    Parameters
    ----------
    kept
        Whether the recipe's `keep` takes each cell, from the block's first row on.
    dropped
        Receives the number of cells that do not stay, by the first reason that holds.

    Returns
    -------
    block
        The same, with the entries of each row in order and none twice.

    Raises
    ------
    InputError
        A value is NaN, infinite or negative, or stands in a column that is not there.
    """
    n = block.shape[0]
    wrong, expressed = np.empty(n, np.uint8), np.empty(n, np.int64)
    share, content = np.empty(n), np.empty(n, np.uint64)
    quality = recipe.quality
    of_interest = quality.max_pct_mt is not None and source.mitochondrial.any()
    mitochondrial = source.mitochondrial if of_interest else np.empty(0, bool)
    arguments = (
        len(source.vocabulary), source.vocabulary.keys(), mitochondrial, wrong, expressed, share, content,
    )  # fmt: skip
    ascending = kernels.look_at_rows(block.data, block.indices, block.indptr, *arguments)
    if not ascending and not wrong.any():
        block = block.copy()
        block.sum_duplicates()
        kernels.look_at_rows(block.data, block.indices, block.indptr, *arguments)
    if wrong.any():
        _refuse(block, source, start, wrong)
    reasons = {
        "not taken by 'keep'": ~kept[:n],
        "fewer genes than min_genes": expressed < quality.min_genes,
        "more genes than max_genes": expressed > (quality.max_genes or np.inf),
        "more mitochondrial counts than max_pct_mt": share
        > (np.inf if quality.max_pct_mt is None else quality.max_pct_mt),
    }
    stays = np.ones(n, bool)
    for reason, bad in reasons.items():
        if (stays & bad).any():
            dropped[reason] += int((stays & bad).sum())
            stays &= ~bad
    return block, _Seen(stays, expressed, content)


def _refuse(block: sp.csr_matrix, source: CellSource, start: int, wrong: np.ndarray) -> None:
    row = int(np.flatnonzero(wrong)[0])
    name = source.names(start + row, start + row + 1)[0].as_py()
    where = f"{source.path}: cell {name} (row {start + row:,})"
    values = block.data[block.indptr[row] : block.indptr[row + 1]]
    columns = block.indices[block.indptr[row] : block.indptr[row + 1]]
    if wrong[row] == kernels.OUT_OF_RANGE:
        raise InputError(f"{where} names a gene column that is not there; the file is damaged")
    bad = ~np.isfinite(values) if wrong[row] == kernels.NOT_FINITE else values < 0
    at = int(np.flatnonzero(bad)[0])
    raise InputError(
        f"{where}, gene {source.vocabulary.names[columns[at]]} is {values[at]:.4g}; expression must be finite and not"
        " negative; name the layer that holds counts with 'layer', or 'raw'"
    )


def count_genes(folder: str, plan: str, unit: Unit) -> np.ndarray:
    """Return how many cells of a unit that pass quality control express each gene. int64, shape (n_genes,)."""
    shared = _shared(folder, plan)
    source = shared.source(unit.sha256)
    kept = shared.fields(unit)["kept"].to_numpy(zero_copy_only=False)
    counts = np.zeros(len(source.vocabulary), np.int64)
    for start, block in _blocks(source, unit):
        block, seen = look(
            block, source, start, shared.recipe, kept[start - unit.start :], Counter()
        )
        kernels.count_cells_per_gene(block.data, block.indices, block.indptr, seen.stays, counts)
    return counts


def _sentences(shared: Shared, unit: Unit, looked: _Looked, table: pa.Table) -> pa.Table:
    """Return what the Parquet files hold of all cells of a unit that stay."""
    names = shared.source(unit.sha256).names(unit.start, unit.stop)
    columns: dict[str, Any] = {
        "cell_id": pa.array(_ids(unit, looked.rows), pa.string()),
        "cell_name": names.take(pa.array(looked.rows - unit.start)),
        "row": pa.array(looked.rows),
        "n_genes": pa.array(looked.expressed.astype(np.int32)),
        "cell_sentence": looked.ranked.head(shared.recipe.sentence_genes).to_text(),
    }
    columns |= {f: table[f] for f in FIELDS}
    columns["content"] = pa.array(looked.content)
    return pa.table(columns)


def _write_sentences(
    shared: Shared, unit: Unit, part: str, sentences: pa.Table, record: UnitRecord
) -> None:
    """Write the Parquet file of the cells of one split."""
    name = f"cells/{part}/{unit.name}.parquet"
    path = shared.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        pq.write_table(
            sentences,
            temporary,
            compression="zstd",
            compression_level=1,
            use_dictionary=list(FIELDS),
            write_statistics=["row", *FIELDS],
        )
    _note(record, shared.folder, name, len(sentences))


def _write_tokens(
    shared: Shared,
    unit: Unit,
    part: str,
    drawn: Drawn,
    cells: UnitCells,
    source_rows: np.ndarray | None,
    assembler: Assembler,
    record: UnitRecord,
) -> None:
    """Write the token shard of one split."""
    samples, batch = fit(drawn, cells, shared.recipe, shared.prompts, assembler)
    if not samples:
        return
    keys = (unit.sha256, unit.start, part)
    sequences = pack(batch.lengths, shared.recipe.context, keys, shared.recipe.draw_seed)
    facts = ShardFacts(
        source=unit.sha256,
        split=part,
        context=shared.recipe.context,
        tokenizer=shared.tokenizer_sha,
        end_of_text=assembler.tokenizer.eos_id,
        vocab_size=len(shared.backend),
    )
    name = f"tokens/{part}/{unit.name}.arrow"
    path = shared.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_shard(path, facts, samples, batch, sequences, cells.fields["study"], source_rows)
    tasks = np.array([s.task for s in samples])
    record.samples[part] = {t: int((tasks == t).sum()) for t in sorted(set(tasks.tolist()))}
    record.tokens[part] = {t: int(batch.lengths[tasks == t].sum()) for t in record.samples[part]}
    record.sequences[part] = len(sequences)
    _note(record, shared.folder, name, len(samples))


def _note(record: UnitRecord, folder: Path, name: str, rows: int) -> None:
    path = folder / name
    record.files[name] = {"sha256": sha256(path), "bytes": path.stat().st_size, "rows": rows}


# --- gene sets ----------------------------------------------------------------------------------


def _build_gene_sets(shared: Shared, unit: Unit) -> UnitRecord:
    """Build the samples of the gene sets of a file; each has its genes in an order of its own (SPEC §4.3)."""
    record = UnitRecord(unit.key, unit.kind)
    sets = read_gmt(shared.resolved[unit.sha256])[unit.start : unit.stop]
    parts = shared.gene_set_parts[unit.sha256]
    vocabulary = _gene_set_vocabulary(shared, sets)
    assembler = Assembler(CellTokenizer(shared.backend, vocabulary, shared.recipe.tokens))
    dropped: Counter[str] = Counter()
    for part in PARTS:
        chosen = [s for s in sets if parts[s.name] == part]
        drawn, cells = _draw_gene_sets(shared, unit, chosen, vocabulary)
        _write_tokens(shared, unit, part, drawn, cells, None, assembler, record)
        dropped += drawn.dropped
    record.dropped_samples = dict(sorted(dropped.items()))
    return record


def _gene_set_vocabulary(shared: Shared, sets: Sequence[GeneSet]) -> GeneVocabulary:
    words = {g for s in sets for g in s.genes}
    if shared.recipe.tokens == "genes":
        words &= set((shared.folder / "genes.txt").read_text("utf-8").split("\n"))
    return GeneVocabulary.from_words(sorted(words))


def _draw_gene_sets(
    shared: Shared, unit: Unit, sets: Sequence[GeneSet], vocabulary: GeneVocabulary
) -> tuple[Drawn, UnitCells]:
    drawn = Drawn()
    orders: list[np.ndarray] = []
    titles: list[str] = []
    for gene_set in sets:
        columns = vocabulary.columns(gene_set.genes)
        columns = columns[columns >= 0]
        for task_id in shared.recipe.task_ids("gene_set"):
            if not len(columns):
                drawn.dropped[f"{task_id}: set has no gene that the tokenizer knows"] += 1
                continue
            n_wordings = len(shared.prompts.wording(task_id).prompts)
            rng = generator(
                shared.recipe.draw_seed, "gene sets", unit.sha256, gene_set.name, task_id
            )
            for _ in range(shared.recipe.samples_per_gene_set):
                wording, n = int(rng.integers(n_wordings)), len(columns)
                drawn.samples.append(Sample(task_id, wording, (len(orders),), n, n))
                orders.append(rng.permutation(columns))
                titles.append(gene_set.title)
    ranked = RankedCells.from_columns(orders, vocabulary)
    return drawn, UnitCells(ranked, {"gene_set": titles, "study": [None] * len(titles)}, {})
