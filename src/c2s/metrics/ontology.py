"""How wrong a wrong label is: distances in a graph of terms, such as the Cell Ontology."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from c2s.common.errors import InputError, nearest
from c2s.metrics._checks import Labels, label_codes


class TermGraph(Protocol):
    """What is asked of a graph object, such as a networkx ``DiGraph``."""

    def __iter__(self) -> Iterator[Any]:
        """Go through the terms."""

    def successors(self, n: Any) -> Iterable[Any]:
        """Return the parents of a term."""


def ontology_distance(
    truth: Labels, predicted: Labels, parents: Mapping[str, Iterable[str]] | TermGraph
) -> np.ndarray:
    """Return how many steps lie between true and predicted terms: up to a common ancestor, and down.

    The smallest number of *is a* steps from the true term up to a term that is an ancestor of both (or one of them),
    and from there down to the predicted term. Detours through a common *descendant* do not count: two types are not
    alike because something is both.

    Parameters
    ----------
    truth, predicted : array of str, shape (n,)
        Terms of the graph.
    parents
        The terms above each term: a mapping from a term to its parents (roots may be left out), or a networkx
        ``DiGraph`` with edges from a term to its parents, as ``obonet`` reads OBO files (keep the ``is_a`` edges only).

    Returns
    -------
    float64 array, shape (n,)
        Steps, lower is better: 0 for the right term, 1 for its parent or child, 2 for a sibling; infinite without a
        common ancestor.

    Raises
    ------
    InputError
        Different lengths, no cells, a missing label, or a label that is not in the graph.

    References
    ----------
    Rada et al. 1989, "Development and application of a metric on semantic nets", IEEE Trans. Syst. Man Cybern. 19:17.

    Examples
    --------
    >>> parents = {"T cell": ["lymphocyte"], "B cell": ["lymphocyte"], "CD4 T": ["T cell"], "CD8 T": ["T cell"]}
    >>> ontology_distance(["CD4 T"] * 4, ["CD4 T", "T cell", "CD8 T", "B cell"], parents).tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    labels, (true_code, called_code) = label_codes(("truth", truth), ("predicted", predicted))
    names = labels.tolist()
    above, known = _parents_and_terms(parents)
    for name in names:
        if name not in known:
            close = nearest(str(name), [str(term) for term in known])
            hint = f"; nearest: {', '.join(close)}" if close else ""
            raise InputError(f"ontology: the label {name!r} is not a term of the graph{hint}")
    pairs, place = np.unique(np.stack([true_code, called_code]), axis=1, return_inverse=True)
    climbs = {code: _ancestors(names[code], above) for code in np.unique(pairs).tolist()}
    steps = [_least(climbs[a], climbs[b]) for a, b in pairs.T.tolist()]
    return np.array(steps)[place.ravel()]


def _parents_and_terms(graph: Any) -> tuple[Mapping[Hashable, Iterable[Hashable]], set[Hashable]]:
    if hasattr(graph, "successors"):
        return {term: list(graph.successors(term)) for term in graph}, set(graph)
    above = {term: list(over) for term, over in graph.items()}
    return above, set(above).union(*above.values())


def _ancestors(term: Hashable, above: Mapping[Hashable, Iterable[Hashable]]) -> dict[Hashable, int]:
    """Return the fewest steps from a term up to each of its ancestors, itself included (0)."""
    steps = {term: 0}
    waiting = deque([term])
    while waiting:
        here = waiting.popleft()
        for parent in above.get(here, ()):
            if parent not in steps:
                steps[parent] = steps[here] + 1
                waiting.append(parent)
    return steps


def _least(a: dict[Hashable, int], b: dict[Hashable, int]) -> float:
    return min((float(a[term] + b[term]) for term in a.keys() & b.keys()), default=np.inf)
