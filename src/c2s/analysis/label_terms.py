"""Annotation over an ontology: which labels are candidates, and what is answered where the best label is not sure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from c2s.common.errors import UsageError, listing
from c2s.knowledge.ontology import Ontology, column_of
from c2s.models.directory import Model

if TYPE_CHECKING:
    import pandas as pd


def labels_below(
    model: Model,
    ontology: Ontology,
    term: str,
    *,
    condition: str = "cell_type",
    every: bool = False,
) -> list[str]:
    """Return the labels below a term: those that the model was trained on, or the names of all terms there.

    Parameters
    ----------
    model
        Whose labels.
    ontology
        Knows the model's labels by id, name or synonym, or as labels given with it.
    term
        Id, name or synonym of the term; it is itself a candidate.
    condition
        Which labels of the model.
    every
        Take every term, in the model's own spelling where it was trained on it.

    Raises
    ------
    UsageError
        There is no such term, or the model was trained on no label below it.
    """
    below = ontology.descendants(ontology.term(term).id)
    known = [label for label in model.known(condition) if ontology.find(label) in below]
    if not every:
        if not known:
            raise UsageError(
                f"the model was trained on no label below {ontology.term(term).name!r}; it knows: "
                f"{listing(model.known(condition)) or 'none'} (say which terms they are, or try every term)"
            )
        return known
    there = {ontology.find(label) for label in known}
    names = ontology.labels_below(term)
    return [*known, *(name for name in names if ontology.find(name) not in there)]


def back_off(
    probabilities: np.ndarray,
    labels: Sequence[str],
    rolled: pd.DataFrame,
    ontology: Ontology,
    least: float,
) -> tuple[list[str | None], np.ndarray]:
    """Return the most specific answer that is sure enough for each cell, and its probability.

    The best label, where its probability reaches `least`; else, of all terms whose rolled-up probability reaches
    it, the one that says most: with the fewest terms of the ontology below it, the more probable of two. The
    root of the ontology ("cell") says nothing and is never an answer.

    Parameters
    ----------
    probabilities : float64 array, shape (n_cells, n_labels)
        Rows sum to 1, or are missing.
    labels
        Their names; a term that is one of them is answered in its spelling.
    rolled : DataFrame, shape (n_cells, n_terms)
        What `roll_up` makes of them.
    ontology
        The same.
    least
        The smallest probability of an answer, between 0 and 1.

    Returns
    -------
    list of str or None
        An answer a cell, None where no term is sure enough or the cell is missing.
    float64 array, shape (n_cells,)
        The probability of the answer, of the best label where there is none; NaN for a missing cell.
    """
    ids = {column_of(ontology, term): term for term in ontology.terms}
    spelled = {ontology.find(label): label for label in reversed(labels)}
    terms = [ids[column] for column in rolled.columns]
    order = sorted(range(len(terms)), key=lambda i: ontology.n_below[terms[i]])
    order = [i for i in order if ontology.parents[terms[i]]]
    sizes = np.array([ontology.n_below[terms[i]] for i in order])
    values = rolled.to_numpy()[:, order]
    names = [spelled.get(terms[i], ontology.terms[terms[i]].name) for i in order]

    confidence = probabilities.max(1)
    answers: list[str | None] = []
    for cell, row in enumerate(probabilities):
        if confidence[cell] >= least:
            answers.append(labels[int(row.argmax())])
            continue
        sure = np.flatnonzero(values[cell] >= least)  # none where the cell is missing
        if not len(sure):
            answers.append(None)
            continue
        sure = sure[sizes[sure] == sizes[sure[0]]]
        best = int(sure[values[cell, sure].argmax()])
        answers.append(names[best])
        confidence[cell] = values[cell, best]
    return answers, confidence
