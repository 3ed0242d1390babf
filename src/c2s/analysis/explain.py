"""Which genes carried a label: each left out in turn, or gradient × input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd

from c2s.analysis.annotate import as_candidate, candidates, check_model, model_temperature
from c2s.analysis.cells import cells_for_model, condition_texts, opened_for
from c2s.cells.readers import expression
from c2s.common.errors import InputError, UsageError, listing, warn
from c2s.common.progress import progress_bar
from c2s.common.seeds import generator
from c2s.decoding.engine import GradientPath, TransformersEngine
from c2s.decoding.pathways import line_before
from c2s.decoding.prompts import label_answers
from c2s.models.directory import Model
from c2s.tasks.single_cell import CELL_TYPE
from c2s.tokens.tokenizer import Segment

if TYPE_CHECKING:
    from anndata import AnnData

    from c2s.cells.ranked import RankedCells

#: How what a gene carries is measured; see `explain`.
Method = Literal["leave_one_out", "gradient", "integrated_gradient"]

#: The columns of an explanation.
COLUMNS = ("cell", "label", "rank", "gene", "value", "method")


def explain(
    adata: AnnData,
    model: Model,
    label: str | Sequence[str] | None = None,
    *,
    method: Method = "leave_one_out",
    labels: Sequence[str] | None = None,
    n_cells: int | None = None,
    steps: int = 8,
    temperature: float | None = None,
    organism: str | None = None,
    top_k: int | None = None,
    genes: Sequence[str] | str | None = None,
    layer: str | None = None,
    gene_names: Mapping[str, str] | str | None = None,
    batch_size: int | None = None,
    strict: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Say of every gene of every cell how much it carried the cell's label.

    The label's probability is that of `annotate` with one view: of writing it behind the cell and ending, normalised
    over the candidates. The value of a gene is in nats of its logarithm; above 0 the gene speaks for the label.

    Parameters
    ----------
    adata
        Counts or normalised expression. Nothing is written to it.
    model
        Trained on annotation.
    label
        What to explain: one label for all cells, or a sequence of one label a cell. By default each cell's most
        probable one.
    method
        "leave_one_out" is log p of the label with the gene minus log p without it: the other genes keep their order,
        and the prompt its wording, the number of genes that it names among it. Exact, at the price of one prompt
        a gene: half as many tokens as that, since variants of a cell share how they begin.
        "gradient" is the derivative of log p when the gene's input embeddings are stretched (gradient × input, summed
        over the gene's tokens). One pass forward and one back a cell, but only what holds near by, and often not much:
        a label that is nearly certain has hardly a slope, and layers that normalise their input hardly see a stretch.
        "integrated_gradient" follows log p while all gene tokens of the cell come from the average of the model's
        gene tokens to where they are, and shares out what it gains; the values of a cell sum to that. `steps` passes
        forward and back a cell; about as telling as leaving out, in a fraction of the time for long sentences.
    labels
        Candidates; by default all that the model was trained on. At least two.
    n_cells
        Explain so many cells, drawn at random, instead of all.
    steps
        Of "integrated_gradient"; more are more exact.
    temperature
        As in `annotate`.
    organism, top_k, genes, layer, gene_names, strict
        As in `annotate`.
    batch_size
        Prompts in a batch; by default what fits the machine.
    seed
        Draws ties, and cells where `n_cells` is given.

    Returns
    -------
    pandas.DataFrame
        A row for each gene of each cell, in the order of the sentences: `cell` (name in `obs`), `label`, `rank` of the
        gene in the cell (1 is the highest expressed), `gene`, `value` and `method`. A cell without any known gene has
        no rows.

    Raises
    ------
    InputError
        The matrix cannot be ranked, or shares no gene with the model.
    UsageError
        The model was not trained on annotation, the method is unknown, a label is no candidate, or a number
        cannot work.

    See Also
    --------
    top_genes : the genes that carried each label, over all cells.
    deletion_test : whether the genes named are those that the label depends on.

    Notes
    -----
    Of two genes that say the same, leaving out one changes little, since the other still says it. Both methods explain
    the model, not the cell.

    References
    ----------
    Li et al. 2016, "Understanding neural networks through representation erasure" (arXiv:1612.08220). Shrikumar et al.
    2016, "Not just a black box" (arXiv:1605.01713). Sundararajan et al. 2017, "Axiomatic attribution for deep networks"
    (ICML).

    Examples
    --------
    >>> table = c2s.tl.explain(adata, model)  # doctest: +SKIP
    >>> c2s.tl.top_genes(table, 10)  # doctest: +SKIP
    """
    check_model(model, 1)
    if method not in get_args(Method):
        raise UsageError(
            f"method={method!r} is unknown; it is one of {', '.join(get_args(Method))}"
        )
    if steps < 1:
        raise UsageError(f"steps={steps} is not possible; it is at least 1")
    model = opened_for(expression(adata, layer)[1], model, gene_names)
    question = Question.of(model, labels, temperature, batch_size, strict, top_k)
    asked = _asked(question, label, adata.n_obs)
    if n_cells is not None:
        chosen = _draw(adata.n_obs, n_cells, seed)
        adata, asked = adata[chosen].to_memory(), asked[chosen]
    texts = condition_texts(adata, model, CELL_TYPE, {"organism": organism})
    cells = cells_for_model(
        adata, model, top_k=top_k, genes=genes, layer=layer, seed=seed, gene_names=gene_names
    )
    rows = np.flatnonzero(cells.lengths > 0)
    if len(rows) == 0:
        raise InputError("no cell has a gene that the model knows")
    if left := len(cells) - len(rows):
        warn(
            f"{left:,} of {len(cells):,} cells have no gene that the model knows, and are left out"
        )
    if method == "leave_one_out":
        chosen_labels, values = _leave_one_out(question, cells, rows, texts, asked)
    else:
        n_steps = steps if method == "integrated_gradient" else None
        chosen_labels, values = _gradient(question, cells, rows, texts, asked, n_steps)
    return _table(cells, rows, [question.labels[i] for i in chosen_labels], values, method)


@dataclass(frozen=True)
class Question:
    """What is asked of a model: which of some labels a cell is.

    Attributes
    ----------
    model
        Trained on annotation.
    labels
        The candidates, as the model knows them.
    temperature
        Divides log p of every label before they are normalised.
    batch_size
        Prompts in a batch; None for what fits.
    top_k
        Genes that were asked for; prompts of released checkpoints say so.
    """

    model: Model
    labels: list[str]
    temperature: float
    batch_size: int | None
    top_k: int | None = None

    @classmethod
    def of(
        cls,
        model: Model,
        labels: Sequence[str] | None,
        temperature: float | None,
        batch_size: int | None,
        strict: bool = False,
        top_k: int | None = None,
    ) -> Question:
        """Check what a user gave.

        Raises
        ------
        UsageError, InputError
            As `annotate`, or there is only one label.
        """
        if line_before(model, CELL_TYPE) is not None:
            raise UsageError(
                "the model names pathways before a label (pathways in c2s.json), and what a gene does through them is "
                "not explained; explain takes models that answer at once"
            )
        found = candidates(model, labels, strict)
        if len(found) < 2:
            raise UsageError(
                f"{found[0]!r} is the only candidate, so nothing speaks for it or against it; "
                "give at least two labels: labels=[…]"
            )
        return cls(model, found, model_temperature(model, temperature), batch_size, top_k)

    @cached_property
    def engine(self) -> TransformersEngine:
        """What reads the prompts."""
        return TransformersEngine(self.model, self.batch_size)

    @cached_property
    def answers(self) -> list[list[int]]:
        """The token ids of each label with its end."""
        return label_answers(self.model, CELL_TYPE, self.labels)

    def number(self, label: str) -> int:
        """Return the place of a label among the candidates.

        Raises
        ------
        UsageError
            It is none of them.
        """
        known = as_candidate(self.model, label, self.labels)
        if known not in self.labels:
            raise UsageError(
                f"label {label!r} is none of the candidates ({listing(self.labels)}); add it to labels=[…]"
            )
        return self.labels.index(known)

    def ask(self, columns: np.ndarray, texts: Mapping[str, str], n_genes: int) -> list[Segment]:
        """Return the prompt about a cell of these gene columns, told that it has `n_genes` (`Model.stated_genes`)."""
        template = self.model.prompts.wording(CELL_TYPE.id).prompts[0]
        return CELL_TYPE.ask(template, texts, columns, self.model.stated_genes(n_genes, self.top_k))

    def prompt(self, columns: np.ndarray, texts: Mapping[str, str], n_genes: int) -> np.ndarray:
        """Return its token ids."""
        return self.model.encode_prompt(self.ask(columns, texts, n_genes))

    def log_p(self, scores: np.ndarray) -> np.ndarray:
        """Return log p of each label, normalised over the labels. Shape as `scores`, (…, n_labels)."""
        scaled = scores / self.temperature
        scaled = scaled - scaled.max(-1, keepdims=True)
        return np.asarray(scaled - np.log(np.exp(scaled).sum(-1, keepdims=True)))


def _asked(question: Question, label: str | Sequence[str] | None, n_cells: int) -> np.ndarray:
    """Return which candidate each cell is asked about, −1 for the most probable one. int64, shape (n_cells,)."""
    if label is None or isinstance(label, str):
        return np.full(n_cells, -1 if label is None else question.number(label), dtype=np.int64)
    if len(label) != n_cells:
        raise UsageError(
            f"label has {len(label):,} entries for {n_cells:,} cells; give one for each, or one for all"
        )
    numbers = {str(each): question.number(str(each)) for each in label}
    return np.array([numbers[str(each)] for each in label], dtype=np.int64)


def _draw(n_obs: int, n_cells: int, seed: int) -> np.ndarray:
    """Return the places of so many cells, drawn at random, in the order of the data."""
    if n_cells < 1:
        raise UsageError(f"n_cells={n_cells} is not possible; it is at least 1")
    drawn = generator(seed, "explain").choice(n_obs, min(n_cells, n_obs), replace=False)
    return np.sort(drawn)


def of_cell(texts: Mapping[str, np.ndarray], row: int) -> dict[str, str]:
    """Return the conditions of one cell."""
    return {name: str(column[row]) for name, column in texts.items()}


def _leave_one_out(
    question: Question,
    cells: RankedCells,
    rows: np.ndarray,
    texts: Mapping[str, np.ndarray],
    asked: np.ndarray,
) -> tuple[list[int], list[np.ndarray]]:
    """Return which label is explained of each cell in `rows`, and a value a gene."""
    labels, values = [], []
    with progress_bar("Explaining", len(rows)) as progress:
        for row in rows:
            columns, given = cells.to_columns(row), of_cell(texts, row)
            n = len(columns)
            # The whole cell last: variants that lack neighbouring genes are the most alike, and it is most like
            # the one that lacks its last gene.
            shown = [*(np.delete(columns, i) for i in range(n)), columns]
            prompts = [question.prompt(each, given, n) for each in shown]
            scores = question.engine.score(prompts, question.answers, alike=True)
            log_p = question.log_p(scores)  # (n_genes + 1, n_labels)
            which = int(asked[row]) if asked[row] >= 0 else int(log_p[-1].argmax())
            labels.append(which)
            values.append(log_p[-1, which] - log_p[:-1, which])
            progress(1)
    return labels, values


def _gradient(
    question: Question,
    cells: RankedCells,
    rows: np.ndarray,
    texts: Mapping[str, np.ndarray],
    asked: np.ndarray,
    steps: int | None,
) -> tuple[list[int], list[np.ndarray]]:
    """Return which label is explained of each cell in `rows`, and a value a gene; with `steps`, along a path."""
    prompts, members = [], []
    for row in rows:
        columns = cells.to_columns(row)
        segments = question.ask(columns, of_cell(texts, row), len(columns))
        ids, gene = question.model.encode_prompt_with_genes(segments)
        prompts.append(ids)
        members.append(gene)
    path = None
    if steps is not None:
        moving = [gene >= 0 for gene in members]
        path = GradientPath(question.model.tokenizer.gene_tokens.ids, moving, steps)
    with progress_bar("Explaining", len(rows)) as progress:
        labels, by_token = question.engine.input_gradients(
            prompts, question.answers, asked[rows], question.temperature, path, progress
        )
    values = [
        np.bincount(gene[gene >= 0], weights=each[gene >= 0], minlength=int(cells.lengths[row]))
        for row, gene, each in zip(rows, members, by_token, strict=True)
    ]
    return labels.tolist(), values


def _table(
    cells: RankedCells,
    rows: np.ndarray,
    labels: Sequence[str],
    values: Sequence[np.ndarray],
    method: Method,
) -> pd.DataFrame:
    lengths = [len(each) for each in values]
    words = np.array(cells.vocabulary.words, dtype=object)
    columns = np.concatenate([cells.to_columns(row) for row in rows])
    names = np.asarray(cells.cell_ids, dtype=object)[rows]
    return pd.DataFrame(
        {
            "cell": np.repeat(names, lengths),
            "label": np.repeat(np.array(labels, dtype=object), lengths),
            "rank": np.concatenate([np.arange(1, n + 1) for n in lengths]),
            "gene": words[columns],
            "value": np.concatenate(values),
            "method": method,
        },
        columns=list(COLUMNS),
    )


def check_explanation(explanation: pd.DataFrame) -> None:
    """Refuse a table that is not what `explain` returns.

    Raises
    ------
    InputError
        A column is missing, or it has no rows.
    """
    if missing := [name for name in COLUMNS if name not in explanation]:
        raise InputError(
            f"the explanation has no column {missing[0]!r}; expected {', '.join(COLUMNS)}, as c2s.tl.explain returns"
        )
    if len(explanation) == 0:
        raise InputError("the explanation has no rows; expected a row for each gene of each cell")


def top_genes(explanation: pd.DataFrame, n: int = 10) -> pd.DataFrame:
    """Return the genes that carried each label the most, over all cells that were explained by it.

    A gene that spoke against the label, or neither way, carried nothing and is not listed; so a label may have fewer
    than `n` genes, or none.

    Parameters
    ----------
    explanation
        What `explain` returns, of one method.
    n
        Genes of each label, at most.

    Returns
    -------
    pandas.DataFrame
        `label`, `gene`, `value`, `error` and `cells`, the highest value of each label first. The value is the mean over
        the label's cells in nats, a cell whose sentence lacks the gene counting as 0, since it was carried without;
        `error` is the standard error of that mean (NaN for one cell), `cells` the number of cells that have the gene.

    Raises
    ------
    InputError
        The table lacks a column, or has no rows.
    UsageError
        `n` is below 1, or the table mixes methods.
    """
    check_explanation(explanation)
    if n < 1:
        raise UsageError(f"n={n} is not possible; it is at least 1")
    if len(methods := sorted(set(explanation["method"]))) > 1:
        raise UsageError(
            f"the explanation mixes {' and '.join(methods)}; give one method at a time"
        )
    parts = []
    for label, part in explanation.groupby("label", sort=True, observed=True):
        n_cells = part["cell"].nunique()
        squared = part[["gene", "value"]].assign(square=part["value"] ** 2)
        sums = squared.groupby("gene", observed=True).agg(["sum", "size"])
        mean = sums["value", "sum"].to_numpy() / n_cells
        # Cells without the gene are zeros: Σ(v − m)² = Σv² − n m².
        spread = np.maximum(sums["square", "sum"].to_numpy() - n_cells * mean**2, 0)
        error = np.sqrt(spread / max(n_cells - 1, 1) / n_cells)
        table = pd.DataFrame(
            {
                "label": label,
                "gene": sums.index.astype(object),
                "value": mean,
                "error": error if n_cells > 1 else np.nan,
                "cells": sums["value", "size"].to_numpy(),
            }
        )
        carried = table[table["value"] > 0]
        parts.append(carried.sort_values(["value", "gene"], ascending=[False, True]).head(n))
    return pd.concat(parts, ignore_index=True)
