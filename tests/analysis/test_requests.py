"""Requests in English: what is understood, and that nothing is left out silently."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from c2s.analysis.requests import GenerationRequest, parse_generation_request
from c2s.common.errors import UsageError

KNOWN = {
    "cell_type": [
        "alpha",
        "beta",
        "t_cell",
        "CD8+ T cell",
        "CD4-positive, alpha-beta T cell",
        "quiescent_stellate",
        "acinar",
    ],
    "organism": ["Homo sapiens"],
}
MODEL = SimpleNamespace(
    known=lambda name: KNOWN.get(name, []), card=SimpleNamespace(conditions=KNOWN)
)
HUMAN = "Homo sapiens"


@pytest.mark.parametrize(
    ("text", "n", "cell_type", "organism"),
    [
        ("generate 7 human beta cells", 7, "beta", HUMAN),
        ("Generate gene list for healthy alpha cells", None, "alpha", None),
        ("seven BETA cells, please", 7, "beta", None),
        ("make 3 quiescent stellate cells", 3, "quiescent_stellate", None),
        ("make 3 quiescent-stellate cells", 3, "quiescent_stellate", None),
        ("20 T cells of Homo sapiens", 20, "t_cell", HUMAN),
        ("a T cell", None, "t_cell", None),
        ("5 CD8+ T cells", 5, "CD8+ T cell", None),
        ("1,000 human beta cells", 1000, "beta", HUMAN),
        ("4 CD4-positive, alpha-beta T cells", 4, "CD4-positive, alpha-beta T cell", None),
        ("generate 4 human cells", 4, None, HUMAN),
        ("an acinar cell", None, "acinar", None),
    ],
)
def test_is_understood(text, n, cell_type, organism):
    assert parse_generation_request(text, MODEL) == GenerationRequest(n, cell_type, organism)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("generate 7 human cells from kidney tissue", "kidney"),
        ("5 beta cells from kidney", "kidney"),
        ("beta cells treated with interferon", "interferon"),
        ("3 hepatocytes", "hepatocytes"),
        ("7 mouse beta cells", "Mus musculus"),
    ],
)
def test_a_condition_that_is_not_known_is_refused_by_name(text, named):
    with pytest.raises(UsageError, match="never saw") as refused:
        parse_generation_request(text, MODEL)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ?!",
        "0 beta cells",
        "5 human and mouse beta cells",
        "generate 100 genes for a beta cell",
    ],
)
def test_a_request_that_cannot_be_carried_out_is_refused(text):
    with pytest.raises(UsageError):
        parse_generation_request(text, MODEL)
