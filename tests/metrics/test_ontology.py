"""Distances between terms, by hand and against networkx."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2s.common.errors import InputError
from c2s.metrics import ontology_distance

PARENTS = {
    "lymphocyte": ["leukocyte"],
    "T cell": ["lymphocyte"],
    "B cell": ["lymphocyte"],
    "CD4 T": ["T cell"],
    "regulatory T": ["CD4 T", "suppressor"],
    "suppressor": ["leukocyte"],
    "neuron": ["electric cell"],
}


@pytest.mark.parametrize(
    ("a", "b", "steps"),
    [
        ("T cell", "T cell", 0),
        ("CD4 T", "T cell", 1),
        ("T cell", "CD4 T", 1),
        ("T cell", "B cell", 2),
        ("CD4 T", "B cell", 3),
        ("regulatory T", "leukocyte", 2),  # by the shorter way up
        ("regulatory T", "B cell", 4),
        # Both are above regulatory T, one step each; down and up does not count.
        ("suppressor", "CD4 T", 4),
        ("T cell", "neuron", np.inf),
    ],
)
def test_by_hand(a, b, steps):
    assert ontology_distance([a], [b], PARENTS).tolist() == [steps]


def test_roots_and_terms_that_are_only_parents_are_terms():
    assert ontology_distance(["leukocyte"], ["leukocyte"], PARENTS).tolist() == [0]


@given(st.data())
def test_equal_to_networkx_through_common_ancestors(data):
    n = data.draw(st.integers(2, 9))
    graph = nx.DiGraph()
    graph.add_nodes_from(map(str, range(n)))
    for child in range(1, n):
        for parent in data.draw(st.lists(st.integers(0, child - 1), max_size=2)):
            graph.add_edge(str(child), str(parent))
    cells = data.draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), min_size=1))
    truth, called = ([str(t) for t in side] for side in zip(*cells, strict=True))
    up = dict(nx.all_pairs_shortest_path_length(graph))
    expected = [
        min((up[a][c] + up[b][c] for c in set(up[a]) & set(up[b])), default=np.inf)
        for a, b in zip(truth, called, strict=True)
    ]
    found = ontology_distance(truth, called, graph)
    assert found.tolist() == expected
    as_mapping = {term: list(graph.successors(term)) for term in graph}
    assert ontology_distance(called, truth, as_mapping).tolist() == expected


def test_labels_that_are_not_terms_are_refused_with_the_nearest_one():
    with pytest.raises(InputError, match="'T cells' is not a term of the graph; nearest: T cell"):
        ontology_distance(["T cells"], ["B cell"], PARENTS)
    with pytest.raises(InputError, match="different length"):
        ontology_distance(["T cell"], ["B cell", "T cell"], PARENTS)
    with pytest.raises(InputError, match="one label per cell"):
        ontology_distance([], [], PARENTS)
