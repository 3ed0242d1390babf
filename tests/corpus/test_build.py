"""A corpus is the same bytes whoever built it, in whatever order, and goes on where it was stopped."""

import json
import os
import shutil

import anndata as ad
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.corpus.conftest import quiet

from c2s.cells.sentences import cell_sentences
from c2s.common.errors import C2SError, InputError, UsageError
from c2s.corpus.build import build_corpus
from c2s.corpus.shards import TokenShard


def read_cells(corpus):
    tables = [
        pq.read_table(p).to_pandas().assign(split=p.parent.name)
        for p in sorted(corpus.glob("cells/*/*"))
    ]
    import pandas as pd

    return pd.concat(tables, ignore_index=True)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_workers_gives_the_same_bytes(write_recipe, build, corpus, contents, workers):
    again = build(write_recipe("text"), workers=workers)
    assert contents(again) == contents(corpus)


def test_the_order_of_the_sources_does_not_matter(write_recipe, build, corpus, contents):
    swapped = build(
        write_recipe("swapped", sources=[{"data": ["c.h5ad", "b.h5ad"]}, {"data": "a.h5ad"}])
    )
    found, expected = contents(swapped), contents(corpus)
    # The recipe as it was written differs, and so do the files that quote it.
    for name in ("recipe.yaml", "manifest.json"):
        del found[name], expected[name]
    assert found == expected


def test_sentences_are_those_of_the_library(source_folder, corpus):
    cells = read_cells(corpus)
    manifest = json.loads((corpus / "manifest.json").read_text())
    for source in manifest["sources"]:
        adata = ad.read_h5ad(source_folder / source["path"])
        mine = cells[cells["cell_id"].str.startswith(source["sha256"][:12])].sort_values("row")
        rows = mine["row"].to_numpy()
        ids = [f"{source['sha256'][:12]}:{i}" for i in range(adata.n_obs)]
        adata.obs_names = ids
        # Genes of fewer than three of the cells that stay are left out.
        seen = np.asarray((adata[rows].X > 0).sum(axis=0)).ravel() >= 3
        expected = cell_sentences(adata, top_k=60, genes=list(adata.var_names[seen])).to_text()
        assert mine["cell_sentence"].tolist() == expected.take(rows).to_pylist()
        assert mine["n_genes"].tolist() == np.diff(adata.X.indptr)[rows].tolist()


def test_a_cell_keeps_its_name_and_fields(source_folder, corpus):
    cells = read_cells(corpus)
    b = ad.read_h5ad(source_folder / "b.h5ad")
    mine = cells[cells["study"] == "study B"].set_index("cell_name")
    assert set(mine.index) <= set(b.obs_names)
    for name in mine.index[:50]:
        assert mine.loc[name, "cell_type"] == b.obs.loc[name, "cell_type"]
        assert mine.loc[name, "donor"] == b.obs.loc[name, "donor_id"]
    assert mine["tissue"].isna().sum() == b.obs.loc[mine.index, "tissue"].isna().sum() > 0


def test_donors_studies_and_cells_are_kept_apart(corpus):
    cells = read_cells(corpus)
    assert not cells["cell_id"].duplicated().any()
    by_donor = cells[cells["study"] == "study A"].groupby("donor", observed=True)["split"].nunique()
    assert (by_donor == 1).all()
    assert len(by_donor) == 5
    assert set(cells.loc[cells["study"] == "study A", "split"]) == {"train", "val", "test"}
    assert set(cells.loc[cells["study"] == "study C", "split"]) == {"held_out"}
    assert set(cells.loc[cells["study"] == "study B", "split"]) == {"train", "val", "test"}
    manifest = json.loads((corpus / "manifest.json").read_text())
    assert [n for n in manifest["notes"] if "study B" in n and "study A" not in n]


def test_everything_dropped_is_counted(source_folder, corpus):
    manifest = json.loads((corpus / "manifest.json").read_text())
    n_cells = sum(ad.read_h5ad(source_folder / f"{n}.h5ad", backed="r").n_obs for n in "abc")
    assert sum(manifest["cells"].values()) + sum(manifest["dropped"]["cells"].values()) == n_cells
    without_tissue = (read_cells(corpus)["tissue"].isna()).sum()
    assert manifest["dropped"]["samples"]["tissue: cell has no tissue"] == without_tissue > 0
    assert (
        manifest["dropped"]["samples"]["nl_interpretation: cell has no abstract"]
        == (read_cells(corpus)["study"] == "study B").sum()
    )


def test_the_number_of_samples_is_as_asked(corpus):
    manifest = json.loads((corpus / "manifest.json").read_text())
    for part, by_task in manifest["samples"].items():
        cells = sum(n for task, n in by_task.items() if not task.startswith("gene_set"))
        dropped = 12 * 5  # rounding: at most one a task, unit and split
        assert abs(cells - 2 * manifest["cells"][part]) <= dropped
    gene_sets = sum(by_task.get("gene_set_enum", 0) for by_task in manifest["samples"].values())
    assert gene_sets == 12 * 2


@pytest.fixture
def begun(write_recipe, build, tmp_path):
    """A corpus folder in which a finished build left all its shards, and the recipe."""
    recipe = write_recipe("begun", samples_per_cell=1)
    return recipe, build(recipe, tmp_path / "corpus")


def test_a_second_build_touches_no_shard(begun, build):
    recipe, out = begun
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.suffix in (".arrow", ".parquet")}
    build(recipe, out)
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.parametrize("kind", ["tokens", "cells", "units"])
def test_a_damaged_shard_is_made_again(begun, build, contents, kind):
    recipe, out = begun
    expected = contents(out)
    victim = sorted((out / kind).rglob("*.*"))[1]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    others = {p: p.stat().st_mtime_ns for p in out.rglob("*.arrow") if p.stem != victim.stem}
    build(recipe, out)
    assert contents(out) == expected
    assert {p: p.stat().st_mtime_ns for p in others} == others


def test_a_source_that_cannot_be_read_is_named_and_the_others_are_kept(
    write_recipe, source_folder, build, corpus, tmp_path, contents
):
    folder = shutil.copytree(source_folder, tmp_path / "sources")
    recipe = folder / "text.yaml"
    write_recipe("text")
    shutil.copy(source_folder / "text.yaml", recipe)
    with h5py.File(folder / "b.h5ad", "r+") as file:
        column = int(file["X/indptr"][150])
        file["X/data"][column] = np.nan
    name = ad.read_h5ad(folder / "b.h5ad", backed="r").obs_names[150]
    out = tmp_path / "corpus"
    with pytest.raises(C2SError) as caught:
        build(recipe, out)
    message = str(caught.value)
    assert "b.h5ad" in message
    assert name in message
    assert "nan" in message
    assert "\n" not in message
    assert not (out / "manifest.json").exists()
    shutil.copy(source_folder / "b.h5ad", folder / "b.h5ad")
    build(recipe, out)
    assert contents(out) == contents(corpus)


def test_a_file_that_is_no_h5ad_is_named_before_anything_is_built(write_recipe, tmp_path, build):
    (tmp_path / "bad.h5ad").write_bytes(b"not HDF5 at all")
    recipe = write_recipe("bad", sources=[{"data": str(tmp_path / "bad.h5ad")}])
    with pytest.raises(InputError, match=r"bad\.h5ad"):
        build(recipe, tmp_path / "corpus")


def test_the_same_file_twice_is_used_once(write_recipe, source_folder, tmp_path, build):
    for name in ("one.h5ad", "two.h5ad"):
        shutil.copy(source_folder / "a.h5ad", tmp_path / name)
    once = build(write_recipe("once", sources=[{"data": str(tmp_path / "one.h5ad")}], split={}))
    twice = build(write_recipe("twice", sources=[{"data": str(tmp_path / "*.h5ad")}], split={}))
    first, second = (json.loads((c / "manifest.json").read_text()) for c in (once, twice))
    assert first["cells"] == second["cells"]
    assert first["samples"] == second["samples"]
    assert second["dropped"]["sources"] == [
        {"path": str(tmp_path / "two.h5ad"), "same as": str(tmp_path / "one.h5ad")}
    ]


def test_the_same_cells_under_two_names_are_of_the_study_of_the_first(
    write_recipe, source_folder, tmp_path, build
):
    """Without a column for it, the name of a file is the study of its cells."""
    cells = ad.read_h5ad(source_folder / "a.h5ad")
    del cells.obs["study"]
    cells.write_h5ad(tmp_path / "one.h5ad")
    shutil.copy(tmp_path / "one.h5ad", tmp_path / "two.h5ad")
    changes = {"split": {}, "abstracts": None, "gene_sets": [], "quality": {"min_cells": 0}}
    sources = [{"data": str(tmp_path / "*.h5ad")}]
    out = build(write_recipe("names", sources=sources, **changes))
    assert set(read_cells(out)["study"]) == {"one"}
    assert set(json.loads((out / "manifest.json").read_text())["splits"]) == {"one"}


@pytest.mark.parametrize(
    "other",
    [
        {"quality": {"min_cells": 20}},
        {"quality": {"min_genes": 1500}},
        {"sources": [{"data": "a.h5ad", "values": {"tissue": "elsewhere"}}]},
        {"sources": [{"data": "a.h5ad", "keep": {"donor_id": ["d0", "d1", "d2"]}}]},
    ],
    ids=["min_cells", "min_genes", "values", "keep"],
)
def test_what_an_unfinished_build_of_another_recipe_left_is_not_taken(
    write_recipe, build, tmp_path, contents, monkeypatch, other
):
    changes = {"sources": [{"data": "a.h5ad"}], "abstracts": None, "gene_sets": [], "split": {}}
    changes |= {"samples_per_cell": 0.5}
    recipe, out = write_recipe("back", **changes), tmp_path / "corpus"

    def stop(*_):
        raise C2SError("stopped")

    for begun in (recipe, write_recipe("forth", **changes | other)):
        with monkeypatch.context() as patch:
            patch.setattr("c2s.corpus.build._map_units", stop)
            with pytest.raises(C2SError, match="stopped"):
                build(begun, out)
    assert contents(build(recipe, out)) == contents(build(recipe))


def test_counted_genes_are_kept_when_another_source_cannot_be_read(
    write_recipe, source_folder, build, tmp_path
):
    folder = shutil.copytree(source_folder, tmp_path / "sources")
    shutil.copy(write_recipe("text"), folder / "text.yaml")
    with h5py.File(folder / "b.h5ad", "r+") as file:
        file["X/data"][0] = np.nan
    with pytest.raises(C2SError, match=r"b\.h5ad"):
        build(folder / "text.yaml", tmp_path / "corpus")
    assert len(list((tmp_path / "corpus" / "work").glob("genes-*.npy"))) == 2


def test_a_complete_corpus_stays_complete_when_its_sources_are_away(begun, build, tmp_path):
    recipe, out = begun
    before = (out / "manifest.json").read_bytes()
    moved = tmp_path / "begun.yaml"
    shutil.copy(recipe, moved)
    with pytest.raises(InputError, match="matches"):
        build(moved, out)
    assert (out / "manifest.json").read_bytes() == before


def test_a_corpus_grows_without_building_anew_what_it_has(write_recipe, build, tmp_path):
    changes = {
        "split": {},
        "tokens": "text",
        "abstracts": None,
        "gene_sets": [],
        "quality": {"min_cells": 0},
    }
    out = tmp_path / "corpus"
    tokenizer = build(write_recipe("tok", **changes)) / "tokenizer"
    changes |= {"tokenizer": str(tokenizer), "tasks": {"cell_type": None, "cond_cell": None}}
    build(write_recipe("grow", sources=[{"data": "a.h5ad"}], **changes), out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.arrow")}
    build(write_recipe("grow", sources=[{"data": "*.h5ad"}], **changes), out)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    grown = len(list(out.rglob("*.arrow")))
    assert grown > len(before)
    build(write_recipe("grow", sources=[{"data": "[bc].h5ad"}], **changes), out)
    assert len(list(out.rglob("*.arrow"))) == grown - len(before)
    assert not any(p.exists() for p in before)


@pytest.mark.parametrize("tokens", ["text", "genes"])
def test_a_corpus_that_grows_with_a_tokenizer_of_its_own_is_as_if_built_at_once(
    write_recipe, build, tmp_path, contents, tokens
):
    changes = {
        "split": {},
        "abstracts": None,
        "gene_sets": [],
        "tokens": tokens,
        "small_tokens": 400,
    }
    out = build(write_recipe("own", sources=[{"data": "a.h5ad"}], **changes), tmp_path / "corpus")
    whole = write_recipe("own", sources=[{"data": "*.h5ad"}], **changes)
    assert contents(build(whole, out)) == contents(build(whole))


def test_a_corpus_of_other_sources_is_not_replaced(write_recipe, build, tmp_path, contents):
    changes = {"split": {}, "abstracts": None, "gene_sets": [], "samples_per_cell": 0}
    out = build(write_recipe("one", sources=[{"data": "a.h5ad"}], **changes), tmp_path / "corpus")
    before = contents(out)
    with pytest.raises(UsageError, match="corpus of other sources"):
        build(write_recipe("two", sources=[{"data": "b.h5ad"}], **changes), out)
    after = contents(out)
    assert {n: b for n, b in after.items() if not n.startswith("work/")} == before


def test_a_folder_with_other_things_is_not_touched(write_recipe, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis\.txt"):
        build_corpus(write_recipe("text"), tmp_path, workers=1, on_stage=quiet)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_two_builds_in_one_folder_are_refused(write_recipe, tmp_path):
    import fcntl

    with open(tmp_path / "lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another build"):
            build_corpus(write_recipe("text"), tmp_path, workers=1, on_stage=quiet)


def test_a_file_system_without_locks_is_named(write_recipe, tmp_path, monkeypatch):
    import errno

    def without(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("c2s.corpus.build.fcntl.flock", without)
    with pytest.raises(UsageError, match="flock"):
        build_corpus(write_recipe("text"), tmp_path / "corpus", workers=1, on_stage=quiet)


def test_a_full_disk_is_said_and_a_rerun_goes_on(begun, build, tmp_path, contents, monkeypatch):
    import errno

    import pyarrow as pa

    recipe, out = begun
    expected = contents(out)
    for victim in sorted((out / "units").glob("*.json"))[-2:]:
        victim.unlink()
    whole = pa.OSFile

    class Full:
        """Opens a file on a disk that is full as soon as something is written."""

        def __init__(self, path, mode):
            if "tokens" in path:
                raise OSError(errno.ENOSPC, "No space left on device", path)
            self.file = whole(path, mode)

        def __enter__(self):
            return self.file.__enter__()

        def __exit__(self, *args):
            return self.file.__exit__(*args)

    monkeypatch.setattr(pa, "OSFile", Full)
    with pytest.raises(C2SError, match="no space left"):
        build(recipe, out)
    monkeypatch.setattr(pa, "OSFile", whole)
    build(recipe, out)
    assert contents(out) == expected


@pytest.mark.parametrize("fixture", ["corpus", "gene_corpus"])
def test_every_sample_is_what_the_tokenizer_makes_of_its_text(request, fixture):
    """The tokens, decoded to text and tokenised by the Hugging Face tokenizer itself, are the same tokens."""
    from transformers import AutoTokenizer

    corpus = request.getfixturevalue(fixture)
    tokenizer = AutoTokenizer.from_pretrained(corpus / "tokenizer")
    tasks = set()
    for path in sorted(corpus.glob("tokens/*/*.arrow")):
        shard = TokenShard(path)
        names = shard.column("task").to_pylist()
        for i in range(0, len(shard), 3):
            tokens = shard.tokens(i).astype(int).tolist()
            assert tokens[-1] == tokenizer.eos_token_id
            tasks.add(names[i])
            if fixture == "corpus":
                text = tokenizer.decode(tokens[:-1])
                assert tokenizer(text, add_special_tokens=False)["input_ids"] == tokens[:-1]
    assert len(tasks) == 12


def test_studies_that_are_not_there_are_refused(write_recipe, tmp_path):
    recipe = write_recipe("lost", split={"held_out_studies": ["study Z"]})
    with pytest.raises(UsageError, match="study Z"):
        build_corpus(recipe, tmp_path / "c", workers=1, on_stage=quiet)


def test_a_column_that_is_not_there_is_named_with_the_nearest(write_recipe, tmp_path):
    recipe = write_recipe(
        "column", sources=[{"data": "a.h5ad", "columns": {"cell_type": "celltype"}}]
    )
    with pytest.raises(InputError, match=r"celltype.*cell_type"):
        build_corpus(recipe, tmp_path / "c", workers=1, on_stage=quiet)


def test_keep_leaves_cells_out(write_recipe, build, source_folder):
    recipe = write_recipe(
        "keep",
        sources=[{"data": "a.h5ad", "keep": {"cell_type": ["beta", "alpha"]}}],
        split={},
        abstracts=None,
        gene_sets=[],
    )
    cells = read_cells(build(recipe))
    a = ad.read_h5ad(source_folder / "a.h5ad", backed="r")
    assert set(cells["cell_type"]) == {"alpha", "beta"}
    assert len(cells) == a.obs["cell_type"].isin(["alpha", "beta"]).sum()


def test_a_file_without_a_cell_that_keep_takes_is_noted_and_the_others_are_used(
    write_recipe, build, source_folder, pancreas, tmp_path
):
    shutil.copy(source_folder / "a.h5ad", tmp_path / "a.h5ad")
    other = pancreas[:40].copy()
    other.obs["cell_type"] = "unheard of"
    other.write_h5ad(tmp_path / "other.h5ad")
    changes = {"split": {}, "abstracts": None, "gene_sets": [], "samples_per_cell": 0}
    keep = {"cell_type": "beta"}
    recipe = write_recipe(
        "none", sources=[{"data": str(tmp_path / "*.h5ad"), "keep": keep}], **changes
    )
    out = build(recipe)
    manifest = json.loads((out / "manifest.json").read_text())
    assert [n for n in manifest["notes"] if "other.h5ad" in n and "'keep'" in n]
    assert set(read_cells(out)["cell_type"]) == {"beta"}
    assert manifest["dropped"]["cells"]["not taken by 'keep'"] >= 40
    recipe = write_recipe(
        "none", sources=[{"data": str(tmp_path / "other.h5ad"), "keep": keep}], **changes
    )
    with pytest.raises(InputError, match="no cell passes 'keep'"):
        build(recipe)


def test_a_corpus_of_an_experiment_has_the_sentences_of_the_same_cells_in_h5ad(
    write_recipe, build, source_folder, tmp_path
):
    write = pytest.importorskip("tiledbsoma.io").from_anndata
    a = ad.read_h5ad(source_folder / "a.h5ad")
    for column in a.obs.columns:
        a.obs[column] = a.obs[column].astype(str)
    write(str(tmp_path / "census"), a, "RNA", X_layer_name="raw")
    changes = {"split": {}, "abstracts": None, "gene_sets": [], "samples_per_cell": 0}
    # Ties are drawn by the source's hash, so they are broken by the alphabet here.
    changes |= {"ties": "alphabetical", "quality": {"min_cells": 0}}
    soma = [{"data": str(tmp_path / "census"), "kind": "soma"}]
    found = read_cells(build(write_recipe("soma", sources=soma, **changes)))
    expected = read_cells(build(write_recipe("h5ad", sources=[{"data": "a.h5ad"}], **changes)))
    columns = ["row", "cell_sentence", "cell_type", "donor", "study", "n_genes", "content"]
    found, expected = (t[columns].sort_values("row", ignore_index=True) for t in (found, expected))
    assert len(found) == len(expected) > 250
    assert (found.astype(str) == expected.astype(str)).all(axis=None)
