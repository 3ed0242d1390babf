"""A dry run foretells the build, leaves nothing behind and asks nobody."""

import json
import os
import tempfile

import anndata as ad
import numpy as np
import pytest
from tests.corpus.conftest import quiet

from c2s.common.errors import C2SError
from c2s.corpus import preview as module
from c2s.corpus.preview import preview


def check(recipe, corpus, folder):
    before = sorted(p.name for p in folder.iterdir())
    found = preview(recipe, workers=1, on_stage=quiet)
    assert sorted(p.name for p in folder.iterdir()) == before
    manifest = json.loads((corpus / "manifest.json").read_text())
    real = {
        name: sum(n for by_task in manifest[name].values() for n in by_task.values())
        for name in ("samples", "tokens")
    } | {"bytes": sum(f["bytes"] for f in manifest["files"].values())}
    for name, n in real.items():
        assert getattr(found, name) == pytest.approx(n, rel=0.3), name
    assert found.files == len(manifest["sources"])
    assert found.genes == manifest["genes"]
    assert found.units == len(list((corpus / "units").iterdir()))
    assert found.seconds > 0
    return found, manifest


def test_numbers_are_near_those_of_the_build(write_recipe, corpus, source_folder):
    recipe = write_recipe("text")
    found, manifest = check(recipe, corpus, source_folder)
    assert found.cells == 650
    assert found.studies == 3
    assert found.notes == [n for n in manifest["notes"] if "no sample" not in n]
    assert found.teacher is None
    assert found.bytes_per_process > 64 << 20


def test_numbers_of_genes_as_tokens(write_recipe, gene_corpus, source_folder):
    check(write_recipe("genes", tokens="genes"), gene_corpus, source_folder)


def test_gene_sets_beyond_the_trial_are_counted(write_recipe, corpus, source_folder, monkeypatch):
    """Where a few gene sets are measured, the others are thought to be like them."""
    monkeypatch.setattr(module, "TRIAL_SETS", 3)
    changes = {"samples_per_gene_set": 60, "samples_per_cell": 0.5}
    found = preview(write_recipe("sets", **changes), workers=1, on_stage=quiet)
    assert found.samples == pytest.approx(12 * 60 * 2 + 650 * 0.5, rel=0.1)


def test_cells_that_keep_takes_are_measured_wherever_they_stand(
    write_recipe, build, source_folder, tmp_path, monkeypatch
):
    """The first cells of the file are all left out."""
    monkeypatch.setattr(module, "TRIAL_CELLS", 64)
    a = ad.read_h5ad(source_folder / "a.h5ad")
    a = a[np.argsort(a.obs["cell_type"] == "beta", kind="stable")].copy()
    a.write_h5ad(tmp_path / "sorted.h5ad")
    sources = [{"data": str(tmp_path / "sorted.h5ad"), "keep": {"cell_type": "beta"}}]
    recipe = write_recipe(
        "sorted", sources=sources, split={}, abstracts=None, gene_sets=[], tasks={"sc_lm": None}
    )
    manifest = json.loads((build(recipe) / "manifest.json").read_text())
    found = preview(recipe, workers=1, on_stage=quiet)
    kept = int((a.obs["cell_type"] == "beta").sum())
    assert found.cells == kept
    samples = sum(n for by_task in manifest["samples"].values() for n in by_task.values())
    assert found.samples == pytest.approx(samples, rel=0.3)


def test_a_teacher_is_not_asked_and_what_asking_takes_is_said(
    write_recipe, source_folder, monkeypatch
):
    from c2s.teachers.client import Teacher

    asked = []
    monkeypatch.setattr(Teacher, "ask", lambda *args, **kwargs: asked.append(args))
    teacher = {"base_url": "http://127.0.0.1:9/v1", "model": "none"}
    recipe = write_recipe(
        "teach", paraphrases=7, teacher=teacher, tasks={"nl_interpretation": None}
    )
    before = sorted(os.listdir(source_folder))
    found = preview(recipe, workers=1, on_stage=quiet)
    assert asked == []
    assert sorted(os.listdir(source_folder)) == before
    # The files have two of seven paraphrases of two abstracts.
    assert found.teacher["requests"] > 0
    assert found.teacher["input_tokens"] > 0
    assert found.samples > 0


def test_nothing_is_left_in_the_temporary_folder(write_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    changes = {"sources": [{"data": "c.h5ad"}], "split": {}, "tasks": {"sc_lm": None}}
    preview(write_recipe("left", **changes), workers=1, on_stage=quiet)
    with pytest.raises(C2SError):
        preview(write_recipe("lost", split={"held_out_studies": ["Z"]}), workers=1, on_stage=quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_build_asks_the_teacher_for_what_is_missing_and_uses_it(write_recipe, build, monkeypatch):
    from c2s.corpus.recipe import read_recipe
    from c2s.corpus.show import show_samples
    from c2s.teachers import paraphrase

    asked = []

    def paraphrases(abstracts, n, teacher, progress):
        asked.append((sorted(abstracts), n))
        return {
            study: [f"Written by the teacher, {i}, of {study}." for i in range(n)]
            for study in abstracts
        }

    monkeypatch.setattr(paraphrase, "paraphrases", paraphrases)
    teacher = {"base_url": "http://127.0.0.1:9/v1", "model": "none"}
    recipe = write_recipe(
        "taught",
        paraphrases=4,
        teacher=teacher,
        tasks={"nl_interpretation": None},
        samples_per_cell=1,
        gene_sets=[],
    )
    folder = build(recipe)
    assert asked == [(["study A", "study C"], 4)]
    answers = {s.response for s in show_samples(folder, 10**6)}
    # Two of four were in the file; the study of the abstract is that of the cells.
    assert {a for a in answers if "teacher" in a} == {
        f"Written by the teacher, {i}, of {study}."
        for i in range(2)
        for study in ("study A", "study C")
    }
    assert len(answers) == 7  # and "Briefly: islets." of both, and one of each
    # What is kept of the recipe tells the number, and that a teacher is needed to do it again.
    with pytest.raises(C2SError, match="paraphrases = 4 needs the field 'teacher'"):
        read_recipe(folder / "recipe.yaml")
