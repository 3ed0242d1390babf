"""Annotation over an ontology: which labels are candidates, and what is answered where the best label is not sure."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from c2s.common.errors import UsageError, listing, warn
from c2s.knowledge.ontology import Ontology, TermsAbove, read_ontology
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


def candidates_below(
    model: Model, ontology: Ontology, term: str, *, every: bool = False, strict: bool = False
) -> list[str]:
    """Return `labels_below`; one warning names those that the model never saw, or `strict` refuses them.

    Raises
    ------
    UsageError
        As `labels_below`; or `strict`, and the model never saw a label.
    """
    labels = labels_below(model, ontology, term, every=every)
    unseen = sorted(set(labels) - set(model.known("cell_type")))
    if unseen:
        message = f"the model never saw {len(unseen):,} of the {len(labels):,} labels: {listing(unseen, 3)}"
        if strict:
            raise UsageError(message)
        warn(message)
    return labels


def ontology_name(
    given: Ontology | str | os.PathLike[str] | None, ontology: Ontology, labels: Sequence[str]
) -> str:
    """Return what records call an ontology: its file, and a hash of its terms and of what the labels are there."""
    name = "ontology" if isinstance(given, Ontology) else Path(given or "Cell Ontology").name
    content = {"parents": ontology.parents, "labels": [ontology.find(label) for label in labels]}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"{name}-{digest[:16]}"


def ontology_for(
    ontology: Ontology | str | os.PathLike[str] | None,
    labels: Sequence[str] | None,
    below: str | None,
    every_term: bool,
    back_off: bool,
    min_confidence: float | None,
) -> Ontology | None:
    """Return the ontology that the options of `annotate` ask for, None for none.

    Raises
    ------
    UsageError
        Options do not go together, or no file is given and the extra is not installed.
    InputError
        The file cannot be read.
    """
    if below is not None and labels is not None:
        raise UsageError("give labels=… or labels_below=…, not both")
    if every_term and below is None:
        raise UsageError("every_term=True needs labels_below=…, the term that they are below")
    if back_off and min_confidence is None:
        raise UsageError("back_off=True needs min_confidence=…, what an answer must reach")
    if isinstance(ontology, Ontology):
        return ontology
    if ontology is None and below is None and not back_off:
        return None
    return read_ontology(ontology)


class BackOff:
    """Answers that are sure enough: the best label, or the most specific term above labels.

    The best label is answered where its probability reaches `least`; else, of all terms whose probability, summed over
    the labels below them, reaches it, the one that says most: with the fewest terms of the ontology below it, the
    more probable of two. The root of the ontology ("cell") says nothing and is never an answer.

    Parameters
    ----------
    labels
        Candidates; a term that is one of them is answered in its spelling.
    above
        The terms above them.
    ontology
        The same.
    least
        The smallest probability of an answer, between 0 and 1.

    Attributes
    ----------
    answers : list of str
        All that can be answered: the labels, and names of terms that are none of them.
    """

    def __init__(
        self, labels: Sequence[str], above: TermsAbove, ontology: Ontology, least: float
    ) -> None:
        spelled = {ontology.find(label): label for label in reversed(labels)}
        said = [i for i, term in enumerate(above.terms) if ontology.parents[term]]
        self._order = sorted(said, key=lambda i: ontology.n_below[above.terms[i]])
        terms = [above.terms[i] for i in self._order]
        self._sizes = np.array([ontology.n_below[term] for term in terms])
        names = [spelled.get(term, ontology.terms[term].name) for term in terms]
        self.answers = [*labels, *dict.fromkeys(name for name in names if name not in labels)]
        self._codes = np.array([self.answers.index(name) for name in names], dtype=np.int64)
        self._names = names
        self._least = least

    def order(self) -> list[tuple[str, int]]:
        """Return the terms that can be answered, those that say most first: its name, and the terms below it."""
        return list(zip(self._names, self._sizes.tolist(), strict=True))

    def answered(
        self, probabilities: np.ndarray, rolled: np.ndarray, unknown: str
    ) -> tuple[pd.Categorical[str], np.ndarray]:
        """Return what `choose` does as texts, `unknown` where no answer is sure enough, missing for a missing cell."""
        import pandas as pd

        codes, confidence = self.choose(probabilities, rolled)
        codes[(codes < 0) & ~np.isnan(confidence)] = len(self.answers)
        return pd.Categorical.from_codes(codes, pd.Index([*self.answers, unknown])), confidence

    def choose(
        self, probabilities: np.ndarray, rolled: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the answer to each cell and its probability.

        Parameters
        ----------
        probabilities : float64 array, shape (n_cells, n_labels)
            Rows sum to 1, or are missing.
        rolled : float64 array, shape (n_cells, n_terms)
            Their sums.

        Returns
        -------
        int64 array, shape (n_cells,)
            Which of `answers`; −1 where none is sure enough or the cell is missing.
        float64 array, shape (n_cells,)
            The probability of the answer, of the best label where there is none; NaN for a missing cell.
        """
        confidence = probabilities.max(1)
        sure = confidence >= self._least
        codes = np.where(sure, np.nan_to_num(probabilities).argmax(1), -1)
        values = rolled[:, self._order]
        for cell in np.flatnonzero(~sure):
            enough = np.flatnonzero(values[cell] >= self._least)  # none where the cell is missing
            if len(enough):
                alike = enough[self._sizes[enough] == self._sizes[enough[0]]]
                best = alike[values[cell, alike].argmax()]
                codes[cell], confidence[cell] = self._codes[best], values[cell, best]
        return codes, confidence
