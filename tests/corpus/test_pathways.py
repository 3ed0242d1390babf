"""Samples that name pathways before their answer: the right ones, learned, in the budget, built anew with their file."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest

from c2s.common.errors import InputError, UsageError
from c2s.common.progress import no_progress
from c2s.corpus.build import build_corpus
from c2s.corpus.online import OnlineExamples, TaskMix
from c2s.corpus.recipe import CorpusRecipe
from c2s.corpus.sampling import Drawn, Sample, UnitCells, fit, write_out
from c2s.corpus.show import read_manifest, show_samples
from c2s.knowledge.gene_sets import GeneSet
from c2s.knowledge.pathways import PathwaySets
from c2s.tasks.pathways import Pathways
from c2s.tasks.prompts import load_prompts
from c2s.tokens.assemble import Assembler

PACK = load_prompts("c2s")
SETS = {
    "HALLMARK_ISLET_HORMONES": ["INS", "GCG", "SST", "PPY", "IAPP", "TTR"],
    "HALLMARK_DIGESTIVE_ENZYMES": ["PRSS1", "PRSS2", "CTRB1", "CTRB2", "CPA1", "CPB1", "PNLIP"],
    "HALLMARK_KERATINS": ["KRT7", "KRT8", "KRT18", "KRT19", "SPP1"],
    "HALLMARK_TOO_FEW": ["INS", "GCG", "XYZ1"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cut):
    place = tmp_path_factory.mktemp("pathways")
    cut.write_h5ad(place / "cells.h5ad")
    text = "".join("\t".join([name, "x", *genes]) + "\n" for name, genes in SETS.items())
    (place / "sets.gmt").write_text(text)
    return place


RECIPE = """
sources: [{data: cells.h5ad, values: {organism: Homo sapiens}}]
tasks: {sc_lm: null, cell_type: null, cond_cell: null}
single_genes: [10, 40]
tokens: MODE
small_tokens: 400
context: 500
samples_per_cell: 2
quality: {min_genes: 1, max_pct_mt: null, min_cells: 0}
split: {few_donors: cells}
pathways: {gene_sets: sets.gmt, number: 2, tasks: [cell_type, cond_cell]}
"""


def build(folder, name, mode="genes", more=""):
    (folder / f"{name}.yaml").write_text(RECIPE.replace("MODE", mode) + more)
    build_corpus(folder / f"{name}.yaml", folder / name, workers=1, on_stage=no_progress)
    return folder / name


@pytest.fixture(scope="module", params=["genes", "text"])
def corpus(request, folder):
    return build(folder, request.param, request.param)


def best_by_hand(words, vocabulary):
    """Return the names of the two sets with the smallest p of Fisher's test."""
    from scipy.stats import hypergeom

    found = []
    for name, genes in SETS.items():
        genes = set(genes) & set(vocabulary)
        if len(genes) < 5:
            continue
        p = hypergeom.logsf(len(genes & set(words)) - 1, len(vocabulary), len(genes), len(words))
        found.append((p, len(found), name.removeprefix("HALLMARK_").replace("_", " ").lower()))
    return [name for _, _, name in sorted(found)[:2]]


def test_samples_show_the_pathways_of_their_cell_and_learn_them(corpus, pancreas):
    vocabulary = (corpus / "genes.txt").read_text().split("\n")
    by_task = Counter()
    for sample in show_samples(corpus, 200):
        by_task[sample.task] += 1
        if sample.task == "sc_lm":
            assert "Pathways" not in sample.response
            continue
        assert "Pathways" not in sample.prompt
        head, _, answer = sample.response.partition(". ")
        cell = sample.prompt if sample.task == "cell_type" else answer
        words = [w for w in cell.replace(",", " ").replace(".", " ").split() if w in vocabulary]
        assert len(words) >= 10
        names = head.removeprefix("Pathways: ").split("; ")
        assert names == best_by_hand(words, vocabulary)
    assert min(by_task[t] for t in ("sc_lm", "cell_type", "cond_cell")) > 20


def test_the_manifest_says_what_may_be_named(corpus, folder):
    from c2s.common.files import sha256

    manifest = read_manifest(corpus)
    assert manifest["pathways"] == {
        "path": "sets.gmt",
        "sha256": sha256(folder / "sets.gmt"),
        "names": ["islet hormones", "digestive enzymes", "keratins"],
        "number": 2,
        "tasks": ["cell_type", "cond_cell"],
    }


def keys(corpus):
    return {p.name: json.loads(p.read_text())["key"] for p in (corpus / "units").glob("*.json")}


def test_a_changed_file_builds_units_anew(folder, tmp_path):
    for name in ("cells.h5ad", "sets.gmt"):
        shutil.copy(folder / name, tmp_path / name)
    first = keys(build(tmp_path, "out"))
    assert keys(build(tmp_path, "out")) == first
    (tmp_path / "moved.gmt").write_bytes((tmp_path / "sets.gmt").read_bytes())
    moved = RECIPE.replace("MODE", "genes").replace("sets.gmt", "moved.gmt")
    (tmp_path / "out.yaml").write_text(moved)
    build_corpus(tmp_path / "out.yaml", tmp_path / "out", workers=1, on_stage=no_progress)
    assert keys(tmp_path / "out") == first  # what it says decides, not where it lies
    text = (tmp_path / "sets.gmt").read_text().replace("KERATINS", "CYTOKERATINS")
    (tmp_path / "sets.gmt").write_text(text)
    again = build(tmp_path, "out")
    assert set(keys(again)) == set(first)
    assert not set(keys(again).values()) & set(first.values())
    shown = show_samples(again, 100, task="cell_type")
    assert any("cytokeratins" in s.response for s in shown)


def test_recipes_without_pathways_keep_their_digest():
    content = {"sources": [{"data": "pancreas"}]}
    recipe = CorpusRecipe.parse(content, "recipe")
    assert "pathways" not in recipe.deciding()
    named = {"gene_sets": "a.gmt", "tasks": ["cell_type"]}
    other = CorpusRecipe.parse({**content, "pathways": named}, "recipe")
    assert other.deciding()["pathways"]["number"] == 3
    assert other.digest() != recipe.digest()


@pytest.mark.parametrize(
    ("pathways", "message"),
    [
        ({"tasks": ["tissue"]}, r"pathways\.tasks = .*tasks of one cell .*found 'tissue'"),
        ({"tasks": ["gene_set_name"]}, "found 'gene_set_name'"),
        ({"tasks": []}, r"pathways\.tasks"),
        ({"number": 0}, r"pathways\.number"),
        ({"gene_set": "a"}, "gene_set"),
    ],
)
def test_recipes_that_cannot_work(pathways, message):
    named = {"gene_sets": "a.gmt", "tasks": ["cell_type"], **pathways}
    with pytest.raises(UsageError, match=message):
        CorpusRecipe.parse({"sources": [{"data": "pancreas"}], "pathways": named}, "recipe")


def test_a_task_that_the_corpus_does_not_have_is_refused():
    named = {"gene_sets": "a.gmt", "tasks": ["cond_cell"]}
    content = {"sources": [{"data": "pancreas"}], "tasks": {"cell_type": None}, "pathways": named}
    with pytest.raises(UsageError, match="pathways.tasks: 'cond_cell' is not among the tasks"):
        CorpusRecipe.parse(content, "recipe")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("number: 2", "number: 4"), "sets.gmt: 3 of its sets have 5 genes or more among those of cells.h5ad, and 4"),
        (("sets.gmt", "none.gmt"), "none.gmt: cannot be read"),
    ],
)  # fmt: skip
def test_builds_that_cannot_work(folder, tmp_path, change, message):
    path = folder / "bad.yaml"
    path.write_text(RECIPE.replace("MODE", "genes").replace(*change))
    with pytest.raises(InputError, match=message):
        build_corpus(path, tmp_path / "out", workers=1, on_stage=no_progress)


@pytest.fixture(scope="module")
def unit(cut, gene_tokenizer, cut_genes):
    """Cells of `cut` in the genes of the tokenizer, with pathways."""
    from c2s.cells.ranked import rank_matrix
    from c2s.cells.vocabulary import GeneVocabulary

    columns = GeneVocabulary.from_var(cut.var).columns(cut_genes.words)
    ranked = rank_matrix(cut.X[:, columns].tocsr(), cut_genes, cut.obs_names.to_numpy(), top_k=100)
    fields = {
        "organism": ["Homo sapiens"] * len(cut),
        "cell_type": cut.obs["cell_type"].astype(str).tolist(),
        "study": [None] * len(cut),
    }
    sets = [GeneSet(name, "", tuple(genes)) for name, genes in SETS.items()]
    named = Pathways(PathwaySets.of(sets, cut_genes, 3), 2, {"cell_type", "cond_cell"})
    return UnitCells(ranked, fields, {}, named)


@pytest.mark.parametrize("task", ["cell_type", "cond_cell"])
def test_the_line_counts_in_the_budget(unit, gene_tokenizer, task):
    recipe = CorpusRecipe.parse(
        {"sources": [{"data": "x"}], "tasks": {task: None}, "single_genes": [5, 60], "context": 90},
        "recipe",
    )
    rows = np.flatnonzero(unit.ranked.lengths >= 60)[:40]
    samples = [Sample(task, 0, (int(r),), 60, 60) for r in rows]
    assembler = Assembler(gene_tokenizer)
    fitted, batch = fit(Drawn(list(samples)), unit, recipe, PACK, assembler)
    assert len(fitted) == len(samples)
    assert batch.lengths.max() <= 90
    parts = write_out(fitted, unit, PACK)
    tokens, offsets = batch.write(np.arange(len(fitted)))
    bare = UnitCells(unit.ranked, unit.fields, {})
    without = assembler.batch(write_out(fitted, bare, PACK), bare.ranked)
    for i, sample in enumerate(fitted):
        # The line is that of the genes which are left, and stands behind the prompt.
        shown = unit.ranked.take([sample.rows[0]])
        (line,) = unit.pathways.lines(shown, np.array([sample.genes]))
        n_line = len(gene_tokenizer.encode_english(line))
        assert parts[i].response[0].startswith(line)
        ids = tokens[offsets[i] : offsets[i + 1]][batch.prompt_lengths[i] :]
        assert gene_tokenizer.decode(ids[:n_line]).strip() == line.strip()
        assert batch.lengths[i] == without.lengths[i] + n_line
        assert batch.prompt_lengths[i] == without.prompt_lengths[i]
    assert {s.genes for s in fitted} != {60}


def test_examples_drawn_from_memory_have_the_line(cell_table, cut_genes):
    sets = [GeneSet(name, "", tuple(genes)) for name, genes in SETS.items()]
    named = Pathways(PathwaySets.of(sets, cut_genes, 3), 2, {"cell_type"})
    mix = {"cell_type": TaskMix(thin=0.3), "cond_cell": TaskMix()}
    plain = OnlineExamples(cell_table, mix, PACK, 16, 60, 0)
    lined = OnlineExamples(cell_table, mix, PACK, 16, 60, 0, named)
    for before, after in zip(plain.draw(range(60)), lined.draw(range(60)), strict=True):
        assert [str(p) for p in before.prompt] == [str(p) for p in after.prompt]
        if before.task == "cond_cell":
            assert [str(p) for p in before.response] == [str(p) for p in after.response]
            continue
        (cell,) = [p for p in after.prompt if isinstance(p, np.ndarray)]
        words = [cut_genes.words[g] for g in cell]
        p = {
            name: overlap_p(words, genes, cut_genes.words)
            for name, genes in SETS.items()
            if len(set(genes) & set(cut_genes.words)) >= 3
        }
        best = sorted(p, key=lambda n: (p[n], list(SETS).index(n)))[:2]
        names = [n.removeprefix("HALLMARK_").replace("_", " ").lower() for n in best]
        assert after.response == [f" Pathways: {names[0]}; {names[1]}.{before.response[0]}"]


def overlap_p(words, genes, vocabulary):
    from scipy.stats import hypergeom

    genes = set(genes) & set(vocabulary)
    return hypergeom.logsf(len(genes & set(words)) - 1, len(vocabulary), len(genes), len(words))


def test_a_file_that_changes_during_the_build_is_noticed(folder, tmp_path):
    from c2s.corpus.build import leave_for_units, make_plan
    from c2s.corpus.engines import map_in_turn
    from c2s.corpus.unit import build_unit, shared_digest

    for name in ("cells.h5ad", "sets.gmt"):
        shutil.copy(folder / name, tmp_path / name)
    (tmp_path / "r.yaml").write_text(RECIPE.replace("MODE", "genes"))
    out = tmp_path / "out"
    (out / "work").mkdir(parents=True)
    recipe = CorpusRecipe.read(tmp_path / "r.yaml")
    plan = make_plan(recipe, tmp_path, out / "work", map_in_turn, no_progress)
    tokenizer = leave_for_units(plan, out)
    (unit,) = plan.units(dict.fromkeys(plan.sources, ""), tokenizer)
    with (tmp_path / "sets.gmt").open("a") as handle:
        handle.write("HALLMARK_NEW\tx\tINS\n")
    with pytest.raises(InputError, match="sets.gmt: was changed while the corpus was built"):
        build_unit(str(out), shared_digest(out), unit)
