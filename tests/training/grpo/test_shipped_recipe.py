"""Alignment on a corpus that a recipe describes: the cells are those that were fine-tuned on, with the same split."""

import pyarrow.dataset as ds

from c2s.common.progress import no_progress
from c2s.corpus.redrawn import RedrawnCorpus
from c2s.corpus.show import read_manifest, split_digests
from c2s.training.grpo.recipe import AlignmentRecipe
from c2s.training.grpo.run import plan_alignment, prepare_alignment
from c2s.training.recipe import DataRecipe, corpus_recipe
from c2s.training.shipped import shipped_recipe


def cells_of(corpus, split):
    """Names and sentences of the cells of a split."""
    table = ds.dataset(corpus / "cells" / split).to_table(columns=["cell_id", "cell_sentence"])
    return sorted(map(tuple, zip(*table.to_pydict().values(), strict=True)))


def test_the_shipped_recipe_holds_out_what_fine_tuning_held_out(
    small_corpus, model_folder, tmp_path
):
    content = shipped_recipe("align-generation")
    content["base"] = {"model": str(model_folder)}
    inner = content["data"]["recipe"]
    inner |= {
        "sources": [{"data": "cut.h5ad"}],
        "single_genes": [16, 16],
        "context": 128,
        "quality": {"min_cells": 10},
    }
    recipe = AlignmentRecipe.parse(content, "align-generation")
    drawn, place = corpus_recipe(DataRecipe.model_validate(content["data"]), small_corpus)
    before = RedrawnCorpus(drawn, place, tmp_path / "sft", workers=1).epoch(0, no_progress)
    run = prepare_alignment(recipe, small_corpus, tmp_path / "align")
    assert split_digests(run.manifest) == split_digests(read_manifest(before))
    for split in ("train", "val", "test"):
        assert len(cells_of(before, split)) > 5
        assert cells_of(run.corpus, split) == cells_of(before, split)
    facts = plan_alignment(recipe, small_corpus)
    assert facts["cells"] == len(cells_of(before, "train"))
    assert facts["answers_a_step"] == 4 * 32
    assert facts["rewards"] == {"energy_distance": 1.0}
