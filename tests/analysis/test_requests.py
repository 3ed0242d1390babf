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
    "tissue": ["kidney", "pancreas", "lymph node"],
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
    ("text", "n", "cell_type", "tissue", "together"),
    [
        ("generate 7 human cells from kidney tissue", 7, None, "kidney", False),
        ("CD8+ T cells in pancreas", None, "CD8+ T cell", "pancreas", False),
        ("3 beta cells of a lymph node", 3, "beta", "lymph node", False),
        ("a sample of 5 kidney cells", 5, None, "kidney", True),
        ("9 cells from the same donor", 9, None, None, True),
        ("sample 4 alpha cells", 4, "alpha", None, False),
    ],
)
def test_tissues_and_samples_are_understood(text, n, cell_type, tissue, together):
    found = parse_generation_request(text, MODEL)
    assert not found.unknown
    assert (found.n, found.cell_type, found.tissue, found.together) == (
        n, cell_type, tissue, together,
    )  # fmt: skip


def test_what_is_understood_is_said_in_one_line():
    found = parse_generation_request("a sample of 5 human T cells in pancreas", MODEL)
    wanted = "n=5, cell_type=t_cell, tissue=pancreas, organism=Homo sapiens, as one sample"
    assert str(found) == wanted


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("generate 7 human cells from liver tissue", "liver"),
        ("5 beta cells from liver", "liver"),
        ("beta cells treated with interferon", "treated interferon"),
        ("3 hepatocytes", "hepatocytes"),
    ],
)
def test_words_that_are_no_condition_are_named(text, unknown):
    found = parse_generation_request(text, MODEL)
    assert found.unknown == unknown
    assert found.text == text
    assert f"never saw {unknown!r}; it knows: cell_type alpha" in found.why_unknown
    assert "tissue kidney, pancreas, lymph node" in found.why_unknown


def test_the_nearest_condition_is_named():
    found = parse_generation_request("5 cells of the pancrea", MODEL)
    assert found.why_unknown.endswith("(nearest: pancreas)")


def test_an_organism_is_a_condition_whether_the_model_knows_it_or_not():
    assert parse_generation_request("7 mouse beta cells", MODEL) == GenerationRequest(
        7, "beta", "Mus musculus"
    )


def test_any_organism_that_the_model_knows_is_understood():
    known = {"cell_type": ["beta"], "organism": ["Macaca mulatta", "Homo sapiens"]}
    model = SimpleNamespace(
        known=lambda name: known.get(name, []), card=SimpleNamespace(conditions=known)
    )
    found = parse_generation_request("7 Macaca mulatta beta cells", model)
    assert found == GenerationRequest(7, "beta", "Macaca mulatta")


def test_what_is_given_beside_a_request_completes_it_and_may_not_contradict():
    request = parse_generation_request("human beta cells", MODEL)
    assert str(request.beside(3)) == "n=3, cell_type=beta, organism=Homo sapiens"
    assert request.beside(None, HUMAN) == request
    with pytest.raises(UsageError, match="the organism given is Mus musculus"):
        request.beside(organism="Mus musculus")


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
