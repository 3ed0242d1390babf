"""Gene programmes, and Kendall's tau-b over one (SPEC §7.5)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from c2s.cells.ranked import RankedCells
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, listing, nearest, warn
from c2s.knowledge.gene_sets import read_gmt
from c2s.metrics import kendall_tau_b
from c2s.training.rewards.recipes import ProgrammeRecipe

#: Fewer genes than this have no order.
FEWEST_GENES = 2


def programme_columns(
    recipe: ProgrammeRecipe, vocabulary: GeneVocabulary, where: str, folder: Path = Path()
) -> np.ndarray | None:
    """Return the columns of a programme's genes that the vocabulary has.

    Parameters
    ----------
    recipe
        Names the genes, or sets of a GMT file.
    vocabulary
        Of the model. Genes that it lacks are left out, with a warning.
    where
        Names the reward in errors.
    folder
        Where a relative path begins.

    Returns
    -------
    int64 array, rising, or None where the recipe gives no programme

    Raises
    ------
    InputError
        The file cannot be read, has no such set, or fewer than two genes are in the vocabulary.
    """
    if not recipe.is_given:
        return None
    genes = recipe.genes if recipe.genes is not None else _united(recipe, where, folder)
    found = vocabulary.columns(genes)
    columns = np.unique(found[found >= 0]).astype(np.int64)
    if len(columns) < FEWEST_GENES:
        field = "genes" if recipe.genes is not None else "sets"
        raise InputError(
            f"{where}.{field}: {len(columns)} of {len(set(genes)):,} genes are in the model's vocabulary, expected at "
            f"least {FEWEST_GENES}"
        )
    unknown = [gene for gene, column in zip(genes, found, strict=True) if column < 0]
    if unknown:
        warn(
            f"{where}: {len(unknown):,} of {len(genes):,} genes are not in the model's vocabulary and are left out: "
            f"{listing(unknown)}"
        )
    return columns


def _united(recipe: ProgrammeRecipe, where: str, folder: Path) -> list[str]:
    """Return the genes of the sets, each once."""
    assert recipe.gene_sets is not None
    path = folder / recipe.gene_sets
    try:
        sets = {found.name: found.genes for found in read_gmt(path)}
    except InputError as error:
        raise InputError(f"{where}.gene_sets: {error}") from error
    for name in recipe.sets:
        if name not in sets:
            close = nearest(name, sets, 1)
            raise InputError(
                f"{where}.sets: {path} has no set {name!r}"
                + (f"; did you mean {close[0]!r}?" if close else "")
            )
    return list(dict.fromkeys(gene for name in recipe.sets for gene in sets[name]))


def rank_scores(cells: RankedCells, columns: np.ndarray) -> np.ndarray:
    """Return minus the rank of each of a programme's genes in each cell's sentence.

    Parameters
    ----------
    cells
        Ranked cells.
    columns : int array, shape (n_programme,)
        Genes, each once.

    Returns
    -------
    float64 array, shape (n_cells, n_programme)
        Ranks begin with 0. Genes that are missing share the lowest score, minus the number of genes of the sentence;
        of a gene that was written again, the first place counts.
    """
    place = np.full(len(cells.vocabulary), -1, dtype=np.int64)
    place[columns] = np.arange(len(columns))
    lengths = cells.lengths
    cell = np.repeat(np.arange(len(cells)), lengths)
    rank = np.arange(len(cells.genes)) - np.repeat(cells.indptr[:-1], lengths)
    which = place[cells.genes]
    of_programme = which >= 0
    scores = np.repeat(-lengths.astype(np.float64)[:, None], len(columns), axis=1)
    np.maximum.at(scores, (cell[of_programme], which[of_programme]), -rank[of_programme])
    return scores


def programme_tau(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return tau-b of each answer's scores and the true values of the same genes.

    Parameters
    ----------
    scores, truth : float64 arrays, shape (n, n_programme)
        A row of NaN in `truth` is a prompt without a true cell.

    Returns
    -------
    float64 array, shape (n,)
        −1 to 1. 0 where tau-b is undefined, because all genes of one side are tied (SPEC §7.5; the metric itself is NaN
        there). NaN where there is no truth.

    Examples
    --------
    >>> programme_tau(np.array([[5.0, 4, 3, 0, 0, 0]]), np.array([[4.0, 5, 2, 1, 0, 0]])).round(6)
    array([0.771517])
    """
    known = ~np.isnan(truth).any(axis=1)
    result = np.full(len(scores), np.nan)
    if known.any():
        result[known] = np.nan_to_num(kendall_tau_b(scores[known], truth[known]), nan=0.0)
    return result
