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
        ("a dozen beta cells", 12, "beta", None),
        ("two dozen human beta cells", 24, "beta", HUMAN),
        ("half a dozen beta cells", 6, "beta", None),
        ("a hundred T cells", 100, "t_cell", None),
        ("3 hundred beta cells", 300, "beta", None),
        ("3 gene lists for beta cells", 3, "beta", None),
        ("5 gene expression profiles of beta cells", 5, "beta", None),
        ("beta cells, 4 beta cells", 4, "beta", None),
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
        "generate -3 beta cells",
        "−3 beta cells",
        "0 genes for a beta cell",
        "100 genes or 50 genes for a beta cell",
        "100 gene for a beta cell",
        "20 marker genes of beta cells",
        "5 beta and acinar cells",
        "beta cells from kidney and pancreas",
    ],
)
def test_a_request_that_cannot_be_carried_out_is_refused(text):
    with pytest.raises(UsageError):
        parse_generation_request(text, MODEL)


@pytest.mark.parametrize(
    ("text", "n", "top_k"),
    [
        ("generate 100 genes for a beta cell", None, 100),
        ("a list of 100 genes for beta cells", None, 100),
        ("3 beta cells of 1,000 genes each", 3, 1000),
        ("12 genes of 3 beta cells", 3, 12),
        ("the top 50 genes of a beta cell", None, 50),
        ("the 50 most highly expressed genes of a beta cell", None, 50),
        ("a 100-gene beta cell", None, 100),
        ("a 100 gene list of a beta cell", None, 100),
        ("a dozen beta cells with two dozen genes", 12, 24),
        ("5 lists of genes for beta cells", 5, None),
    ],
)
def test_genes_are_counted_apart_from_cells(text, n, top_k):
    found = parse_generation_request(text, MODEL)
    assert (found.n, found.cell_type, found.top_k, found.unknown) == (n, "beta", top_k, "")


def test_a_number_of_genes_is_shown_and_may_not_be_contradicted():
    request = parse_generation_request("3 beta cells of 100 genes", MODEL)
    assert str(request) == "n=3, cell_type=beta, top_k=100"
    assert request.beside(top_k=100) == request
    with pytest.raises(UsageError, match=r"the request says 100 genes, and top_k=50 is given"):
        request.beside(top_k=50)
    assert parse_generation_request("beta cells", MODEL).beside(top_k=50).top_k == 50


def test_the_message_says_what_is_wrong():
    for text, said in (
        ("generate -3 beta cells", "asks for -3 cells"),
        ("5 beta and acinar cells", "two of cell_type, beta and acinar; ask for one at a time"),
        ("20 marker genes of beta cells", r"counts genes \('20 marker genes'\).*as '20 genes'"),
    ):
        with pytest.raises(UsageError, match=said):
            parse_generation_request(text, MODEL)


def test_two_types_beside_words_that_are_not_understood_are_left_to_the_model():
    found = parse_generation_request("beta cells next to acinar cells", MODEL)
    assert found.unknown == "next acinar"
