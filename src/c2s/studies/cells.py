"""The cells of a study: read, checked, with donors or pseudo-donors, and dealt to training, test and held-out tiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from c2s.cells.preprocess import log10_normalized
from c2s.cells.readers import expression, read
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError, listing, nearest
from c2s.common.seeds import generator
from c2s.corpus.splits import split_cells, split_groups
from c2s.datasets import pancreas
from c2s.evaluate.compare import DONOR_COLUMNS
from c2s.evaluate.conditions import JOINT, column_text
from c2s.studies.recipe import PANCREAS, AnyStudy, OutOfDistributionStudy, StudyRecipe, Tier
from c2s.studies.train import read_counts

if TYPE_CHECKING:
    from anndata import AnnData

TRAIN, TEST = "train", "test"
#: Column of obs that pseudo-donors are written to.
PSEUDO_DONOR = "pseudo_donor"
#: Fewer donors than this make rough intervals.
_FEW = 10


@dataclass(frozen=True)
class Donors:
    """Who the cells come from.

    Attributes
    ----------
    column
        Column of `obs`.
    names : object array, shape (n_cells,)
    pseudo
        They are random parts of one donor's cells.
    """

    column: str
    names: np.ndarray
    pseudo: bool


@dataclass(frozen=True)
class StudyCells:
    """All cells of a study.

    Attributes
    ----------
    name
        Of the data set.
    counts, values : csr_matrix of float32, shape (n_cells, n_genes)
        Raw counts, and log10(1 + 1e4 · count / total).
    vocabulary, var
        Genes of the columns, and their table as the data have it.
    obs
        Index: names of the cells. Columns of the data, and that of pseudo-donors.
    by
        Columns whose combinations are the labels.
    labels, organism : object arrays, shape (n_cells,)
        What is named or generated, and the organism.
    donors
        None where there is one donor or none is named.
    part : object array, shape (n_cells,)
        "train", "test" or the name of a tier.
    tiers
        Names of the tiers.
    notes
        What a reader has to know about the cells.
    """

    name: str
    counts: sp.csr_matrix
    values: sp.csr_matrix
    vocabulary: GeneVocabulary
    var: pd.DataFrame
    obs: pd.DataFrame
    by: tuple[str, ...]
    labels: np.ndarray
    organism: np.ndarray
    donors: Donors | None
    part: np.ndarray
    tiers: tuple[str, ...]
    notes: tuple[str, ...]

    def rows(self, part: str) -> np.ndarray:
        """Return the rows of a part. int64."""
        return np.flatnonzero(self.part == part)

    @property
    def measured_parts(self) -> tuple[str, ...]:
        """What is measured on: "test", then the tiers."""
        return (TEST, *self.tiers)

    def adata(self, rows: np.ndarray) -> AnnData:
        """Return some of the cells with raw counts, the columns of labels and donors, and the organism."""
        from anndata import AnnData

        known = [c for c in DONOR_COLUMNS if c in self.obs and not self.obs[c].isna().any()]
        columns = dict.fromkeys([*self.by, *known, *([self.donors.column] if self.donors else [])])
        obs = self.obs[list(columns)].iloc[rows].astype(str)
        obs["organism"] = self.organism[rows]
        return AnnData(X=self.counts[rows], obs=obs, var=self.var)

    def clusters(self, rows: np.ndarray) -> np.ndarray | None:
        """Return the donor of some cells where they are of at least two, else None."""
        if self.donors is None or len(set(self.donors.names[rows])) < 2:
            return None
        return self.donors.names[rows]

    def intervals(self, rows: np.ndarray) -> str:
        """Say what intervals over some cells tell about."""
        if self.donors is None:
            return "Intervals are over cells: the data have one donor, or name none, so nothing is said about others."
        n = len(set(self.donors.names[rows]))
        if n < 2:
            return (
                "Intervals are over cells: all are of one donor, so nothing is said about others."
            )
        few = " So few make rough intervals, rather too narrow." if n < _FEW else ""
        if self.donors.pseudo:
            return (
                f"Intervals are over {n} pseudo-donors: random parts of one donor's cells. They are, but for chance, "
                f"the same as intervals over cells, and say nothing of other donors.{few}"
            )
        return f"Intervals are over the {n} donors, drawn as wholes.{few}"

    def facts(self) -> dict[str, object]:
        """Return numbers of cells, labels and donors by part, as JSON can hold them."""
        parts = {}
        for part in (TRAIN, *self.measured_parts):
            rows = self.rows(part)
            parts[part] = {"cells": len(rows), "labels": len(set(self.labels[rows]))}
            if self.donors is not None:
                parts[part]["donors"] = len(set(self.donors.names[rows]))
        return {
            "name": self.name,
            "genes": len(self.vocabulary),
            "by": list(self.by),
            "donors": None
            if self.donors is None
            else {"column": self.donors.column, "pseudo": self.donors.pseudo},
            "parts": parts,
        }


def load_cells(name: str, recipe: AnyStudy) -> StudyCells:
    """Read the cells that a recipe names and deal them to parts, after checking everything.

    Parameters
    ----------
    name
        Of the recipe, for messages.
    recipe
        What to read and how to split it.

    Raises
    ------
    UsageError
        The recipe names no data; a column, value or donor that it needs is not there; or a split cannot be made.
    InputError
        The data cannot be read, hold no counts, or a label is missing.
    """
    if recipe.data is None:
        raise UsageError(_data_is_missing(name, recipe))
    adata = pancreas() if recipe.data == PANCREAS else read(recipe.data)
    return study_cells(adata, recipe, Path(recipe.data).name.split(".")[0])


def _data_is_missing(name: str, recipe: StudyRecipe) -> str:
    if recipe.published is None:
        return f"{name}: no data; give --data FILE, or 'data' in the recipe"
    about = recipe.published
    return (
        f"{name}: give --data FILE with the cells of {about.dataset} ({about.citation}); they do not come with this "
        f"package: {about.get}"
    )


def study_cells(adata: AnnData, recipe: AnyStudy, name: str) -> StudyCells:
    """Check cells and deal them to parts; errors as `load_cells`."""
    conditions = recipe.conditions if isinstance(recipe, OutOfDistributionStudy) else []
    by = tuple(conditions) or (recipe.columns.cell_type,)
    columns = [np.array(column_text(adata.obs, c, name), dtype=object) for c in by]
    labels = columns[0]
    for column in columns[1:]:
        labels = labels + JOINT + column
    donors, notes = _donors(adata.obs, recipe, name)
    layer = None if recipe.layer == "X" else recipe.layer
    counts, vocabulary, ids = read_counts(adata, layer)
    obs = adata.obs.copy()
    obs.index = pd.Index(ids)
    if donors is not None and donors.pseudo:
        obs[PSEUDO_DONOR] = donors.names
    cells = StudyCells(
        name=name,
        counts=counts,
        values=log10_normalized(counts),
        vocabulary=vocabulary,
        var=expression(adata, layer)[1],
        obs=obs,
        by=by,
        labels=labels,
        organism=_organism(obs, recipe, name),
        donors=donors,
        part=np.full(len(labels), TRAIN, dtype=object),
        tiers=(),
        notes=tuple(notes),
    )
    return _dealt(cells, recipe)


def _organism(obs: pd.DataFrame, recipe: StudyRecipe, name: str) -> np.ndarray:
    column = recipe.columns.organism or ("organism" if "organism" in obs else None)
    if column is None:
        return np.full(len(obs), "Homo sapiens", dtype=object)
    return np.array(column_text(obs, column, name), dtype=object)


def _donors(obs: pd.DataFrame, recipe: StudyRecipe, name: str) -> tuple[Donors | None, list[str]]:
    """Find the donors, or deal cells to pseudo-donors; with what a reader has to know."""
    there = [c for c in DONOR_COLUMNS if c in obs and not obs[c].isna().any()]
    column = recipe.columns.donor or (there[0] if there else None)
    if column is not None:
        names = np.array(column_text(obs, column, name), dtype=object)
        if len(set(names)) > 1:
            ignored = "Pseudo-donors were not needed: the data name donors."
            return Donors(column, names, False), [ignored] if recipe.pseudo_donors else []
    if recipe.pseudo_donors is None:
        return None, []
    n = recipe.pseudo_donors
    order = generator(recipe.seed, "pseudo-donors").permutation(len(obs))
    names = np.empty(len(obs), dtype=object)
    names[order] = [f"pseudo-donor {i % n + 1}" for i in range(len(obs))]
    what = "name no donors" if column is None else "are of one donor"
    note = (
        f"The data {what}. Their cells were dealt at random to {n} pseudo-donors, so that the study runs as it would "
        "with donors; what differs between pseudo-donors is chance alone."
    )
    return Donors(PSEUDO_DONOR, names, True), [note]


def _dealt(cells: StudyCells, recipe: AnyStudy) -> StudyCells:
    """Return the cells with their parts."""
    part = np.full(len(cells.labels), "", dtype=object)
    tiers: tuple[str, ...] = ()
    if isinstance(recipe, OutOfDistributionStudy):
        for tier in recipe.hold_out:
            held = _held_out(cells, tier) & (part == "")
            if not held.any():
                raise UsageError(
                    f"hold_out: no cell is left for {tier.name!r} that no earlier tier has"
                )
            part[held] = tier.name
        tiers = tuple(tier.name for tier in recipe.hold_out)
    rest = np.flatnonzero(part == "")
    if len(rest) == 0:
        raise UsageError("hold_out: all cells are held out, and none are left to learn from")
    part[rest] = _split(cells, rest, recipe)
    dealt = replace(cells, part=part, tiers=tiers)
    _require_parts(dealt)
    return dealt


def _split(cells: StudyCells, rows: np.ndarray, recipe: StudyRecipe) -> np.ndarray:
    """Return "train" or "test" for some cells."""
    train, test = recipe.split.fractions
    fractions = (train, 0.0, test)
    if recipe.split.by == "cell":
        return split_cells(cells.labels[rows], fractions, recipe.seed)
    if cells.donors is None:
        raise UsageError(
            "split.by = 'donor': the data have one donor, or name none; name their column (columns.donor), give "
            "pseudo_donors, or split by 'cell'"
        )
    names = cells.donors.names[rows]
    known = sorted(set(names))
    found = split_groups(known, fractions, recipe.seed)
    if len(set(found.values())) < 2:
        raise UsageError(
            f"split.fractions = {list(recipe.split.fractions)}: {len(known)} donors are too few for such shares of "
            "whole donors; give other shares, or split by 'cell'"
        )
    return np.array([found[name] for name in names], dtype=object)


def _require_parts(cells: StudyCells) -> None:
    """Refuse parts on which nothing can be learned or measured."""
    if len(cells.rows(TEST)) == 0:
        raise InputError(
            f"{cells.name}: no cell is left for the test; give more cells or a larger share"
        )
    kinds = sorted(set(cells.labels[cells.rows(TRAIN)]))
    if len(kinds) < 2:
        raise InputError(
            f"{cells.name}: the training cells are all {listing(kinds) or 'missing'}; at least 2 different labels in "
            f"obs[{cells.by[0]!r}] are needed"
        )


def _held_out(cells: StudyCells, tier: Tier) -> np.ndarray:
    """Return which cells a tier holds out. bool, shape (n_cells,)."""
    held = np.zeros(len(cells.labels), dtype=bool)
    if tier.lowest_depth is not None:
        held[lowest_depth(cells.counts, cells.labels, tier.lowest_depth)] = True
        return held
    for entry in tier.where:
        match = np.ones(len(held), dtype=bool)
        for column, wanted in entry.items():
            match &= _has_value(cells.obs, column, wanted, tier.name)
        held |= match
    if not held.any():
        raise UsageError(f"hold_out: no cell is as {tier.name!r} says: {tier.where}")
    return held


def _has_value(
    obs: pd.DataFrame, column: str, wanted: str | Sequence[str], tier: str
) -> np.ndarray:
    text = np.array(column_text(obs, column, f"hold_out, {tier!r}"), dtype=object)
    values = [wanted] if isinstance(wanted, str) else list(wanted)
    known = sorted(set(text))
    for value in values:
        if value not in known:
            close = nearest(value, known)
            raise UsageError(
                f"hold_out, {tier!r}: no cell has {column} = {value!r}; there are {listing(known)}"
                + (f"; did you mean {close[0]!r}?" if close else "")
            )
    return np.isin(text.astype(str), values)


def lowest_depth(counts: sp.csr_matrix, labels: np.ndarray, share: float) -> np.ndarray:
    """Return the rows of the given share of each label's cells that have the fewest counts. int64, sorted.

    Within each label, because types differ in depth: a shift of depth is wanted, and no other mixture of types. Equal
    counts are ordered by row.
    """
    depth = np.asarray(counts.sum(axis=1)).ravel()
    rows = []
    for label in sorted(set(labels)):
        own = np.flatnonzero(labels == label)
        order = own[np.argsort(depth[own], kind="stable")]
        rows.append(order[: round(share * len(own))])
    return np.sort(np.concatenate(rows))
