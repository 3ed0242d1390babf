"""Whether the genes that an explanation names are those that the label depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from c2s.analysis.annotate import check_model
from c2s.analysis.cells import condition_texts, opened_for
from c2s.analysis.explain import Question, check_explanation, of_cell
from c2s.cells.readers import expression
from c2s.common.errors import InputError, UsageError, warn
from c2s.common.progress import progress_bar
from c2s.common.seeds import generator
from c2s.metrics.bootstrap import bootstrap_interval
from c2s.models.directory import Model
from c2s.tasks.single_cell import CELL_TYPE

if TYPE_CHECKING:
    from anndata import AnnData

#: A control is drawn among so many genes, those with the nearest ranks.
_NEAR = 6


@dataclass(frozen=True)
class DeletionTest:
    """What `deletion_test` found.

    Attributes
    ----------
    cells : pandas.DataFrame
        A row a cell: `cell`, `label`; the label's `probability` with all genes, without the named ones
        (`probability_named`) and without as many others (`probability_random`, the mean over draws); the same of its
        logarithm in nats (`log_p`, `log_p_named`, `log_p_random`); the mean rank of what was taken out, `rank_named`
        and `rank_random`.
    summary : pandas.DataFrame
        Rows "probability" and "log_p"; columns `all_genes`, `without_named`, `without_random` (means over cells),
        `difference` (the last minus the one before; above 0 the named genes matter more than others of their ranks),
        and the 95 % interval of the difference over cells, `low` and `high` (NaN for one cell).
    n_genes, n_random
        Genes taken out of a cell, and draws of others.
    """

    cells: pd.DataFrame
    summary: pd.DataFrame
    n_genes: int
    n_random: int


def deletion_test(
    adata: AnnData,
    model: Model,
    explanation: pd.DataFrame,
    *,
    n_genes: int = 10,
    n_random: int = 5,
    labels: Sequence[str] | None = None,
    temperature: float | None = None,
    organism: str | None = None,
    top_k: int | None = None,
    layer: str | None = None,
    gene_names: Mapping[str, str] | str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> DeletionTest:
    """Take the genes that an explanation names out of each cell, and as many others of the same ranks.

    If the explanation is right, the label loses more without the genes that it names. High ranks matter to a model
    in any case, so each named gene has a control of nearly its own rank: one of the six genes of the cell with the
    nearest ranks that are neither named nor taken yet, drawn at random.

    Parameters
    ----------
    adata
        The cells that were explained; only their names and conditions are used, the sentences are in the table.
    model
        That was explained.
    explanation
        What `explain` returned, whole, by either method.
    n_genes
        Genes with the highest values that are taken out together. A cell needs twice as many.
    n_random
        Draws of other genes.
    labels, temperature, organism, top_k, layer, gene_names
        As they were given to `explain`. The last three matter to a released checkpoint only: its prompts state
        `top_k`, and its genes are those of the data.
    batch_size
        Prompts in a batch; by default what fits the machine.
    seed
        Draws the other genes, and the resamples of the interval.

    Raises
    ------
    InputError
        The table is not whole, or names cells or genes that `adata` or the model do not have.
    UsageError
        A number cannot work, or a label is no candidate.

    References
    ----------
    DeYoung et al. 2020, "ERASER" (ACL), there called comprehensiveness.

    Examples
    --------
    >>> table = c2s.tl.explain(adata, model)  # doctest: +SKIP
    >>> c2s.tl.deletion_test(adata, model, table).summary  # doctest: +SKIP
    """
    check_model(model, 1)
    for name, number in (("n_genes", n_genes), ("n_random", n_random)):
        if number < 1:
            raise UsageError(f"{name}={number} is not possible; it is at least 1")
    model = opened_for(expression(adata, layer)[1], model, gene_names)
    question = Question.of(model, labels, temperature, batch_size, top_k=top_k)
    texts = condition_texts(adata, model, CELL_TYPE, {"organism": organism})
    cells = [
        cell
        for cell in _cells(adata, model, explanation, question)
        if len(cell.values) >= 2 * n_genes
    ]
    if not cells:
        raise UsageError(
            f"no cell has the {2 * n_genes:,} genes that taking out {n_genes:,} and as many others needs; "
            "give a smaller n_genes=…"
        )
    if left := explanation["cell"].nunique() - len(cells):
        warn(f"cells with fewer than {2 * n_genes:,} genes are left out: {left:,}")
    prompts, ranks = [], []
    for cell in cells:
        taken = [np.empty(0, np.int64), *_taken(cell, n_genes, n_random, seed)]
        given, n = of_cell(texts, cell.row), len(cell.columns)
        prompts += [question.prompt(np.delete(cell.columns, out), given, n) for out in taken]
        ranks.append([taken[1].mean() + 1, np.mean(taken[2:]) + 1])
    with progress_bar("Taking out genes", len(prompts), "prompts") as progress:
        scores = question.engine.score(prompts, question.answers, progress)
    log_p = question.log_p(scores).reshape(len(cells), n_random + 2, len(question.labels))
    log_p = log_p[np.arange(len(cells)), :, [cell.label for cell in cells]]
    table = _by_cell(cells, question.labels, log_p, np.array(ranks))
    return DeletionTest(table, _summary(table, seed), n_genes, n_random)


@dataclass(frozen=True)
class _Cell:
    """A cell as its explanation tells it: row of the data, gene columns in rank order, a value a gene, its label."""

    name: str
    row: int
    columns: np.ndarray
    values: np.ndarray
    label: int


def _cells(
    adata: AnnData, model: Model, explanation: pd.DataFrame, question: Question
) -> list[_Cell]:
    """Read the cells of an explanation.

    Raises
    ------
    InputError
        As `deletion_test`.
    """
    check_explanation(explanation)
    row_of: Mapping[str, int] = {str(name): row for row, name in enumerate(adata.obs_names)}
    column_of = {word: column for column, word in enumerate(model.vocabulary.words)}
    cells = []
    for name, part in explanation.groupby("cell", sort=False, observed=True):
        if str(name) not in row_of:
            raise InputError(f"cell {name!r} of the explanation is not in the data")
        ordered = part.sort_values("rank")
        if (ordered["rank"].to_numpy() != np.arange(1, len(part) + 1)).any():
            raise InputError(
                f"cell {name!r}: ranks of the explanation are not 1 to {len(part):,}, each once; "
                "give what c2s.tl.explain returned, whole and of one method"
            )
        if unknown := [gene for gene in ordered["gene"] if gene not in column_of]:
            raise InputError(
                f"cell {name!r}: the gene {unknown[0]!r} of the explanation is not known to the model"
            )
        columns = np.array([column_of[gene] for gene in ordered["gene"]], dtype=np.int32)
        label = question.number(str(ordered["label"].iloc[0]))
        values = ordered["value"].to_numpy(np.float64)
        cells.append(_Cell(str(name), row_of[str(name)], columns, values, label))
    return cells


def _taken(cell: _Cell, n_genes: int, n_random: int, seed: int) -> list[np.ndarray]:
    """Return the places in the sentence of the named genes, and of each draw of others."""
    named = np.argsort(-cell.values, kind="stable")[:n_genes]
    rng = generator(seed, "deletion", cell.name)
    draws = []
    for _ in range(n_random):
        free = np.setdiff1d(np.arange(len(cell.values)), named)
        others = []
        for place in rng.permutation(named):
            near = free[np.argsort(np.abs(free - place), kind="stable")[:_NEAR]]
            others.append(rng.choice(near))
            free = free[free != others[-1]]
        draws.append(np.array(others))
    return [named, *draws]


def _by_cell(
    cells: Sequence[_Cell], labels: Sequence[str], log_p: np.ndarray, ranks: np.ndarray
) -> pd.DataFrame:
    """Return the table of cells from log p of their labels: with all genes, without those named, each draw."""
    p = np.exp(log_p)
    table: dict[str, object] = {
        "cell": [cell.name for cell in cells],
        "label": [labels[cell.label] for cell in cells],
    }
    for name, values in (("probability", p), ("log_p", log_p)):
        table[name] = values[:, 0]
        table[f"{name}_named"] = values[:, 1]
        table[f"{name}_random"] = values[:, 2:].mean(1)
    return pd.DataFrame({**table, "rank_named": ranks[:, 0], "rank_random": ranks[:, 1]})


def _summary(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    rows = {}
    for name in ("probability", "log_p"):
        difference = (table[f"{name}_random"] - table[f"{name}_named"]).to_numpy()
        low, high = np.nan, np.nan
        if len(difference) > 1:  # one cell does not say how cells differ
            low, high = bootstrap_interval(np.mean, difference, seed=seed)
        rows[name] = {
            "all_genes": table[name].mean(),
            "without_named": table[f"{name}_named"].mean(),
            "without_random": table[f"{name}_random"].mean(),
            "difference": difference.mean(),
            "low": low,
            "high": high,
        }
    return pd.DataFrame.from_dict(rows, orient="index")
