"""Small corpora of real cells, built once."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

ABSTRACT = "Islet cells of several donors were sequenced one by one."


def quiet(name, total):
    """Progress that shows nothing."""
    return lambda n: None


@pytest.fixture(scope="session")
def source_folder(pancreas, tmp_path_factory):
    """Three files of pancreas cells with other genes, donors and studies; abstracts; gene sets.

    `a`: 300 cells of study A, five donors. `b`: 200 cells of study B, two donors, other genes, no tissue for every
    tenth cell, gzip. `c`: 150 cells of study C, three donors. Not to be changed.
    """
    folder = tmp_path_factory.mktemp("sources")
    rng = np.random.default_rng(0)
    order = rng.permutation(pancreas.n_obs)
    shared = np.flatnonzero(np.asarray(pancreas.X.sum(axis=0)).ravel() > 0)

    def write(name, rows, genes, study, n_donors, **kwargs):
        part = pancreas[order[rows], np.sort(genes)].copy()
        part.obs["donor_id"] = pd.Categorical([f"d{i % n_donors}" for i in range(part.n_obs)])
        part.obs["study"] = pd.Categorical([study] * part.n_obs)
        if name == "b":
            tissue = part.obs["tissue"].astype(object).to_numpy()
            tissue[::10] = None
            part.obs["tissue"] = pd.Categorical(tissue)
        del part.obs["donor"]
        part.write_h5ad(folder / f"{name}.h5ad", **kwargs)

    write("a", slice(0, 300), shared, "study A", 5)
    write("b", slice(300, 500), rng.permutation(shared)[:12_000], "study B", 2, compression="gzip")
    write("c", slice(500, 650), rng.permutation(shared)[:14_000], "study C", 3)
    lines = [
        {"study": s, "abstract": ABSTRACT, "paraphrases": [f"{ABSTRACT} {s}", "Briefly: islets."]}
        for s in ("study A", "study C")
    ]
    (folder / "abstracts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "sets.gmt").write_text(
        "".join(f"SET_{i}\tx\tINS\tGCG\tSST\tPPY\tGHRL\tPRSS{i % 3 + 1}\tTTR\n" for i in range(12))
    )
    return folder


RECIPE = {
    "sources": [{"data": "*.h5ad"}],
    "abstracts": "abstracts.jsonl",
    "gene_sets": ["sets.gmt"],
    "samples_per_gene_set": 2,
    "samples_per_cell": 2,
    "single_genes": [50, 150],
    "multi_genes": [20, 60],
    "multi_cells": [2, 6],
    "sentence_genes": 60,
    "context": 900,
    "unit_cells": 128,
    "small_tokens": 500,
    "split": {"held_out_studies": ["study C"]},
}


@pytest.fixture(scope="session")
def write_recipe(source_folder):
    """Return a function that writes the recipe with changes and returns its path."""

    def write(name, **changes):
        path = source_folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(RECIPE | changes))
        return path

    return write


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """Return a function that builds a recipe into a folder and returns the folder."""
    from c2s.corpus.build import build_corpus

    def run(recipe, out=None, **kwargs):
        out = out or tmp_path_factory.mktemp("corpora") / "corpus"
        build_corpus(recipe, out, **{"workers": 1, "on_stage": quiet, **kwargs})
        return out

    return run


@pytest.fixture(scope="session")
def corpus(write_recipe, build):
    """A corpus of all tasks with the tokenizer's own pieces. Not to be changed."""
    return build(write_recipe("text"))


@pytest.fixture(scope="session")
def gene_corpus(write_recipe, build):
    """The same with one token a gene. Not to be changed."""
    return build(write_recipe("genes", tokens="genes"))


@pytest.fixture
def changeable(corpus, tmp_path):
    """A copy of the corpus that a test may damage."""
    import shutil

    return shutil.copytree(corpus, tmp_path / "copy")


@pytest.fixture(scope="session")
def contents():
    """Return a function that gives the bytes of every file of a folder, by name."""

    def read(folder):
        return {
            str(p.relative_to(folder)): p.read_bytes()
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        }

    return read
