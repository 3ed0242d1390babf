"""What all verbs share: from an AnnData to cells in the model's own genes, and where results go."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from c2s.cells.checks import check_expression
from c2s.cells.panels import select_genes
from c2s.cells.ranked import RankedCells, rank_matrix
from c2s.cells.readers import csr_blocks, expression
from c2s.cells.sentences import cell_sentences
from c2s.cells.vocabulary import ADD_SYMBOLS, ENSEMBL_ID, GeneVocabulary
from c2s.common.errors import InputError, UsageError, listing, warn
from c2s.decoding.prompts import as_known, only_known
from c2s.models.directory import Model
from c2s.tasks.base import Task

if TYPE_CHECKING:
    from anndata import AnnData

#: Parts of an AnnData that verbs write to.
_SLOTS = ("obs", "obsm")


def opened_for(
    var: pd.DataFrame, model: Model, gene_names: Mapping[str, str] | str | None = None
) -> Model:
    """Return the model; a released checkpoint, which takes any gene symbol, with the genes of the data (`var`).

    Warns where most genes have no symbol, which such a checkpoint cannot read.
    """
    if not model.any_gene:
        return model
    vocabulary = GeneVocabulary.from_var(var, gene_names)
    if (without := _without_symbol(vocabulary.words)) is not None:
        warn(f"{without}; {ADD_SYMBOLS}")
    return model.with_genes(vocabulary)


def _without_symbol(words: Sequence[str]) -> str | None:
    """Say how many genes of the data are Ensembl ids without a symbol, if most are; else return None."""
    ids = [word for word in words if ENSEMBL_ID.match(word)]
    if 2 * len(ids) <= len(words):
        return None
    return (
        f"{len(ids):,} of {len(words):,} genes have an Ensembl id and no symbol ({listing(ids, 2)})"
    )


@dataclass(frozen=True)
class Rows:
    """The cells of a data set: their tables, and any range of rows of one of their matrices.

    Attributes
    ----------
    obs, var
        Tables of the cells and of the matrix's genes.
    read : (start, stop) -> csr_matrix
        Reads rows of the matrix, the last not included.
    layer
        Which matrix it is, as the verbs' `layer`.
    """

    obs: pd.DataFrame
    var: pd.DataFrame
    read: Callable[[int, int], sp.csr_matrix]
    layer: str | None = None

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return len(self.obs)

    @classmethod
    def of(cls, adata: AnnData, layer: str | None = None) -> Rows:
        """Return the cells of an AnnData, in memory or backed.

        Raises
        ------
        UsageError
            There is no such layer.
        """
        matrix, var = expression(adata, layer)
        if hasattr(matrix, "to_memory") and matrix.format == "csc":
            matrix = matrix.to_memory()  # rows of a matrix by column cannot be read from disk
        if sp.issparse(matrix):
            matrix = matrix.tocsr()

        def read(start: int, stop: int) -> sp.csr_matrix:
            ((_, block),) = csr_blocks(matrix[start:stop], rows=max(1, stop - start))
            return block

        return cls(adata.obs, var, read, layer)


class ModelCells:
    """Cells of a data set in the gene columns of a model, ranked a range of rows at a time.

    Parameters
    ----------
    var
        Table of the genes of the data.
    model
        Its vocabulary is what may be ranked.
    top_k
        Genes a cell; by default as many as the model was trained on.
    genes, gene_names
        As in `c2s.pp.cell_sentences`.

    Attributes
    ----------
    vocabulary : GeneVocabulary
        Of the data, named by words, so that a panel chooses columns by word alone: with repeated gene names a word may
        also be the name of another column.
    panel : list of str
        The words that may be ranked.

    Raises
    ------
    InputError
        The data have none of the model's genes.
    """

    def __init__(
        self,
        var: pd.DataFrame,
        model: Model,
        *,
        top_k: int | None = None,
        genes: Sequence[str] | str | None = None,
        gene_names: Mapping[str, str] | str | None = None,
    ) -> None:
        vocabulary = GeneVocabulary.from_var(var, gene_names)
        self._to_model = vocabulary.align(model.vocabulary)
        self._model = model
        self.top_k = model.card.top_k if top_k is None else top_k
        self.panel = self._panel(var, vocabulary, genes)
        self.vocabulary = GeneVocabulary.from_words(vocabulary.words)
        self._selected = self.vocabulary.mask(self.panel)

    def _panel(
        self, var: pd.DataFrame, vocabulary: GeneVocabulary, genes: Sequence[str] | str | None
    ) -> list[str]:
        model = self._model
        shared = np.flatnonzero(self._to_model >= 0)
        few = len(shared) < max(1, min(self.top_k, len(model.vocabulary)))
        without = _without_symbol(vocabulary.words) if few else None
        if len(shared) == 0 and without is not None:
            raise InputError(f"none of the genes is known to the model: {without}; {ADD_SYMBOLS}")
        if len(shared) == 0:
            raise InputError(
                f"none of the {len(vocabulary):,} genes of the data ({listing(vocabulary.words, 3)}) is known to the "
                f"model ({listing(model.vocabulary.words, 3)}); are they symbols of the same species?"
            )
        if few:
            warn(
                f"only {len(shared):,} of the model's {len(model.vocabulary):,} genes are in the data, fewer than the "
                f"{self.top_k:,} a cell that it was trained on; expect worse answers"
                + ("" if without is None else f" ({without}; {ADD_SYMBOLS})")
            )
        chosen = select_genes(var, vocabulary, genes)
        if genes is None or chosen is None:
            return [vocabulary.words[i] for i in shared]
        panel = [vocabulary.words[i] for i in shared if chosen[i]]
        if not panel:
            shown = repr(genes) if isinstance(genes, str) else listing(list(map(str, genes)), 5)
            raise InputError(f"none of the genes chosen by genes={shown} is known to the model")
        if not isinstance(genes, str):
            known = self._to_model >= 0
            warn_of_unknown(genes, vocabulary, known, "known to the model and in the data")
        return panel

    def rank(self, rows: Rows, start: int, stop: int, seed: int = 0) -> RankedCells:
        """Read and rank rows `start` to `stop`, the last not included; a cell without genes is an empty sentence.

        Raises
        ------
        InputError
            The matrix holds NaN, infinite or negative values.
        """
        block, ids = rows.read(start, stop), rows.obs.index[start:stop]
        check_expression(block, cell_ids=ids, gene_names=self.vocabulary.names, source="the matrix")
        cells = rank_matrix(
            block, self.vocabulary, ids.to_numpy(dtype=object), top_k=self.top_k,
            selected=self._selected, seed=seed,
        )  # fmt: skip
        return self.in_model(cells)

    def in_model(self, cells: RankedCells) -> RankedCells:
        """Return cells that are ranked in the columns of the data in those of the model."""
        genes = self._to_model[cells.genes].astype(np.int32)
        return RankedCells(
            cells.indptr, genes, self._model.vocabulary, cells.values, cells.cell_ids
        )


def warn_of_unknown(
    genes: Iterable[str], vocabulary: GeneVocabulary, known: np.ndarray, what: str
) -> None:
    """Name the genes of a panel that are left out, in one warning.

    Parameters
    ----------
    genes
        The panel: words, or names of columns.
    vocabulary, known : bool array, shape (n_genes,)
        The genes that may be meant, and which of them can be used.
    what
        What the others are not, for the message.
    """
    asked = list(dict.fromkeys(map(str, genes)))
    columns = vocabulary.columns(asked)
    names = {vocabulary.names[column] for column in np.flatnonzero(known)}
    found = (columns >= 0) & known[columns]
    left = [
        gene for gene, there in zip(asked, found, strict=True) if not there and gene not in names
    ]
    if left:
        warn(
            f"{len(left):,} of the {len(asked):,} genes of the panel are left out, since they are not {what}: "
            f"{listing(left, 5)}"
        )


def cells_for_model(
    adata: AnnData,
    model: Model,
    *,
    top_k: int | None = None,
    genes: Sequence[str] | str | None = None,
    layer: str | None = None,
    seed: int = 0,
    thin: float = 1.0,
    gene_names: Mapping[str, str] | str | None = None,
) -> RankedCells:
    """Rank cells among the genes that the model knows, in the model's own gene columns.

    Parameters
    ----------
    adata, genes, layer, seed, thin, gene_names
        As in `c2s.pp.cell_sentences`.
    model, top_k
        As in `ModelCells`.

    Raises
    ------
    InputError
        The data have none of the model's genes.
    """
    _, var = expression(adata, layer)
    known = ModelCells(var, model, top_k=top_k, genes=genes, gene_names=gene_names)
    return known.in_model(
        cell_sentences(
            adata, top_k=known.top_k, genes=known.panel, layer=layer, seed=seed, thin=thin,
            vocabulary=known.vocabulary,
        )
    )  # fmt: skip


def condition_texts(
    adata: AnnData | Rows, model: Model, task: Task, given: Mapping[str, str | None]
) -> dict[str, np.ndarray]:
    """Return the text of each condition for every cell, as object arrays of shape (n_cells,).

    An argument comes first, then a column of `obs` of that name, then the only value the model knows.

    Raises
    ------
    UsageError
        A condition is none of these.
    InputError
        The column has no value for a cell.
    """
    texts = {}
    for condition in task.conditions:
        value = given.get(condition)
        if value is not None:
            texts[condition] = np.full(adata.n_obs, as_known(model, condition, value), dtype=object)
        elif condition in adata.obs and condition != task.target:
            missing = adata.obs[condition].isna().to_numpy()
            if missing.any():
                raise InputError(
                    f"obs[{condition!r}] has no value for {missing.sum():,} of {len(missing):,} cells (first: "
                    f"{adata.obs.index[missing][0]!r}); fill it in, or give {condition}=…"
                )
            column = adata.obs[condition].astype(str)
            spelled = {v: as_known(model, condition, v) for v in column.unique()}
            texts[condition] = np.array([spelled[v] for v in column], dtype=object)
        elif (only := only_known(model, condition)) is not None:
            texts[condition] = np.full(adata.n_obs, only, dtype=object)
        else:
            raise UsageError(
                f"the model's prompt names the {condition}; give {condition}=… or a column obs[{condition!r}] "
                f"(known: {listing(model.known(condition)) or 'none'})"
            )
    return texts


def asked_with(
    texts: Mapping[str, np.ndarray],
    genes: Sequence[str] | str | None = None,
    gene_names: Mapping[str, str] | str | None = None,
) -> dict[str, Any]:
    """Return what decided the prompts of cells, for `record`: the text of each condition, or all that there are.

    A panel is a list in alphabetical order: its own order decides nothing.
    """
    said: dict[str, Any] = {}
    for name, column in texts.items():
        different = sorted({str(text) for text in column})
        said[name] = different[0] if len(different) == 1 else different
    if genes is not None and not isinstance(genes, str):
        genes = sorted({str(gene) for gene in genes})
    return {
        **said,
        "genes": genes,
        "gene_names": "a table" if isinstance(gene_names, Mapping) else gene_names,
    }


def target(adata: AnnData, copy: bool) -> AnnData:
    """Return the object that results go into.

    Raises
    ------
    UsageError
        A copy is wanted of an object whose matrix is on disk.
    """
    if copy and adata.isbacked:
        raise UsageError(
            "copy=True cannot copy a backed AnnData; leave it out (results go to obs and obsm in memory, never to the"
            " file), or read the file without backed"
        )
    return adata.copy() if copy else adata


def claim(adata: AnnData, verb: str, slot: str, *keys: str) -> None:
    """Refuse keys that hold something this package did not write there.

    Raises
    ------
    UsageError
        `adata.<slot>[key]` exists and was not written by the same verb, or two keys are the same.
    """
    refuse_taken(adata, verb, slot, keys, getattr(adata, slot))


def refuse_taken(
    adata: AnnData, verb: str, slot: str, keys: Sequence[str], there: Container[str]
) -> None:
    """Refuse keys that are `there` in a slot, but for those that `uns` says the same verb wrote.

    Raises
    ------
    UsageError
        One is, or two are the same.
    """
    for number, key in enumerate(keys):
        if key in keys[:number]:
            raise UsageError(f"{slot}[{key!r}] would hold two results; give each another key")
        if key in there and key not in _written(adata, verb, slot):
            raise UsageError(
                f"{slot}[{key!r}] exists already and was not written by c2s; give another key"
            )


def record(
    adata: AnnData,
    verb: str,
    source: str,
    parameters: Mapping[str, Any],
    slots: Mapping[str, Sequence[str]],
) -> None:
    """Write to `uns["c2s"]` what was done: parameters, what did it, versions, and the keys that were written, by slot.

    `source` is where the model comes from, or the name of an encoder.
    """
    from c2s.models.directory import library_versions

    keys = {slot: sorted({*_written(adata, verb, slot), *slots.get(slot, ())}) for slot in _SLOTS}
    entry = {
        "parameters": {k: v for k, v in parameters.items() if v is not None},
        "model": source,
        "versions": library_versions(),
        "keys": {slot: written for slot, written in keys.items() if written},
    }
    # A new dictionary: the old one may be shared with another object.
    adata.uns["c2s"] = {**adata.uns.get("c2s", {}), verb: entry}


def _written(adata: AnnData, verb: str, slot: str) -> list[str]:
    """Return the keys of a slot that a verb wrote; older records do not say in which slot their keys are."""
    keys = adata.uns.get("c2s", {}).get(verb, {}).get("keys", [])
    return [str(k) for k in (keys.get(slot, []) if isinstance(keys, Mapping) else keys)]


def label_columns(labels: Sequence[str]) -> list[str]:
    """Return the names that labels have as columns of a table: "|" for "/", which `.h5ad` files take for a folder.

    They are as different as the labels: one that another label has already gets a further "|".
    """
    taken = {label for label in labels if "/" not in label}
    columns = []
    for label in labels:
        column = label.replace("/", "|")
        while "/" in label and column in taken:
            column += "|"
        taken.add(column)
        columns.append(column)
    return columns
