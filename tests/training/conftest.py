"""What tests of training runs share."""

import warnings

import pytest


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory, cut):
    """A folder with `cut.h5ad` and the corpus of one task, cell types, that was built of it. Not to be changed."""
    from c2s.common.progress import no_progress
    from c2s.corpus.build import build_from
    from c2s.corpus.recipe import CorpusRecipe

    folder = tmp_path_factory.mktemp("recipes")
    cut.write_h5ad(folder / "cut.h5ad")
    recipe = CorpusRecipe.parse(
        {
            "sources": [{"data": "cut.h5ad"}], "tasks": {"cell_type": {}}, "single_genes": [20, 30],
            "tokens": "genes", "context": 128, "samples_per_cell": 1, "quality": {"min_cells": 10},
        },
        "corpus",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        build_from(recipe, folder, folder / "corpus", workers=1, on_stage=no_progress)
    return folder
