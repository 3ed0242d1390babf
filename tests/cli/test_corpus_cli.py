"""`c2s corpus` as a person meets it: counts, samples, one clear line on failure, exit codes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

RECIPE = {
    "sources": [{"data": "cells.h5ad"}],
    "gene_sets": ["sets.gmt"],
    "samples_per_gene_set": 1,
    "samples_per_cell": 1,
    "single_genes": [20, 50],
    "multi_genes": [10, 20],
    "multi_cells": [2, 4],
    "sentence_genes": 20,
    "context": 600,
    "unit_cells": 64,
    "small_tokens": 400,
}


@pytest.fixture
def c2s(c2s, monkeypatch):
    """Return a function that runs `c2s corpus ARGS` and gives (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *args: c2s("corpus", *args)


@pytest.fixture(scope="module")
def home(cut, tmp_path_factory):
    """A folder with a recipe, its files and the corpus that it makes. Not to be changed."""
    from c2s.corpus.build import build_corpus

    folder = tmp_path_factory.mktemp("home")
    cells = cut.copy()
    cells.obs["donor"] = pd.Categorical([f"d{i % 5}" for i in range(cells.n_obs)])
    cells[np.random.default_rng(0).permutation(cells.n_obs)].copy().write_h5ad(
        folder / "cells.h5ad"
    )
    (folder / "sets.gmt").write_text("".join(f"SET_{i}\tx\tINS\tGCG\tSST\n" for i in range(9)))
    (folder / "r.yaml").write_text(yaml.safe_dump(RECIPE))
    build_corpus(
        folder / "r.yaml", folder / "corpus", workers=1, on_stage=lambda name, n: lambda k: None
    )
    return folder


@pytest.fixture
def changed(home, tmp_path):
    """Return a function that writes a changed recipe beside the files and returns its path."""

    def write(**changes):
        path = home / f"{tmp_path.name}.yaml"
        path.write_text(yaml.safe_dump(RECIPE | changes))
        return path

    yield write
    (home / f"{tmp_path.name}.yaml").unlink(missing_ok=True)


def one_line(result, *parts, expected=1):
    code, _, err = result
    assert code == expected, err
    # Stages that were begun are named before.
    lines = [line for line in err.strip().splitlines() if not line.endswith("…")]
    assert len(lines) == 1, err
    assert lines[0].startswith("c2s: ")
    assert "Traceback" not in err
    for part in parts:
        assert str(part) in lines[0]


# --- what goes well ---------------------------------------------------------------------------


def test_build_says_what_was_made_and_what_is_missing(c2s, home, tmp_path):
    code, out, err = c2s("build", home / "r.yaml", "-o", tmp_path / "c", "--workers", 1)
    assert code == 0
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert f"Corpus: {tmp_path / 'c'}" in out
    for by_task in manifest["samples"].values():
        for task, n in by_task.items():
            line = next(line for line in out.splitlines() if f" {task} " in line)
            assert f"{n:,}" in line
    (warning,) = [line for line in err.splitlines() if "warning" in line]
    assert (
        "there is no sample of cond_sample_abstract, nl_interpretation (cell has no abstract)"
        in warning
    )
    for name in ("manifest.json", "genes.txt"):
        assert (tmp_path / "c" / name).read_bytes() == (home / "corpus" / name).read_bytes()


def test_build_as_json(c2s, home, changed, tmp_path):
    recipe = changed(tasks={"cell_type": None}, gene_sets=[])
    code, out, _ = c2s("build", recipe, "-o", tmp_path / "c", "--workers", 1, "--json")
    assert code == 0
    found = json.loads(out)
    assert set(found) >= {"cells", "samples", "tokens", "dropped"}
    assert set(found["samples"]["train"]) == {"cell_type"}


def test_dry_run_makes_nothing(c2s, home, tmp_path):
    before = sorted(home.rglob("*"))
    code, out, _ = c2s("build", home / "r.yaml", "--dry-run", "--json", "--workers", 1)
    assert code == 0
    found = json.loads(out)
    assert found["cells"] == 150
    assert found["units"] == 4
    assert found["samples"] > 0
    code, out, _ = c2s("build", home / "r.yaml", "--dry-run", "-o", tmp_path / "c", "--workers", 1)
    assert code == 0
    assert "150 cells" in out
    assert not (tmp_path / "c").exists()
    assert sorted(home.rglob("*")) == before


def test_verify_an_intact_corpus(c2s, home):
    code, out, err = c2s("verify", home / "corpus", "--workers", 1)
    assert (code, err) == (0, "")
    assert out.strip() == f"{home / 'corpus'}: intact, 4 units"
    code, out, _ = c2s("verify", home / "corpus", "--workers", 1, "--json")
    assert code == 0
    assert json.loads(out) == {"intact": True, "problems": []}


def test_verify_a_damaged_corpus(c2s, home, tmp_path):
    corpus = shutil.copytree(home / "corpus", tmp_path / "c")
    victims = sorted(corpus.glob("tokens/train/*.arrow"))[:2]
    for victim in victims:
        victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    one_line(
        c2s("verify", corpus, "--workers", 1),
        victims[0].name,
        "its bytes are not",
        "(1 more; --json lists them)",
    )
    code, out, _ = c2s("verify", corpus, "--workers", 1, "--json")
    assert code == 1
    found = json.loads(out)
    assert found["intact"] is False
    assert len(found["problems"]) == 2
    # As it says: building again mends it.
    shutil.copy(home / "r.yaml", tmp_path / "r.yaml")
    for name in ("cells.h5ad", "sets.gmt"):
        shutil.copy(home / name, tmp_path / name)
    assert c2s("build", tmp_path / "r.yaml", "-o", corpus, "--workers", 1)[0] == 0
    assert c2s("verify", corpus, "--workers", 1)[0] == 0


def test_stats(c2s, home):
    code, out, err = c2s("stats", home / "corpus")
    assert (code, err) == (0, "")
    manifest = json.loads((home / "corpus" / "manifest.json").read_text())
    for word in (
        "train",
        "val",
        "test",
        "cell_type",
        "gene_set_enum",
        "Cell types",
        "acinar",
        "Tissues",
        "pancreas",
    ):
        assert word in out
    assert "sequences are" in out
    assert "left out: 150 samples, nl_interpretation: cell has no abstract" in out
    code, out, _ = c2s("stats", home / "corpus", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["samples"] == manifest["samples"]
    assert found["cells"] == manifest["cells"]


def test_sample(c2s, home):
    code, out, err = c2s(
        "sample", home / "corpus", "-n", 3, "--task", "cell_type", "--split", "train"
    )
    assert (code, err) == (0, "")
    assert out.count("cell_type, train") == 3
    code, out, _ = c2s(
        "sample", home / "corpus", "-n", 3, "--task", "cell_type", "--json", "--seed", 4
    )
    found = json.loads(out)
    assert [s["task"] for s in found] == ["cell_type"] * 3
    code, again, _ = c2s(
        "sample", home / "corpus", "-n", 3, "--task", "cell_type", "--json", "--seed", 4
    )
    assert again == out
    assert (
        c2s("sample", home / "corpus", "-n", 3, "--task", "cell_type", "--json", "--seed", 5)[1]
        != out
    )


def test_long_samples_are_shortened_unless_whole(c2s, home):
    _, out, _ = c2s("sample", home / "corpus", "--task", "mc_lm", "-n", 30, "--json")
    long = [s for s in json.loads(out) if len(s["response"]) > 600]
    assert (
        long == [] or "characters" in c2s("sample", home / "corpus", "--task", "mc_lm", "-n", 30)[1]
    )
    _, out, _ = c2s("sample", home / "corpus", "--task", "mc_lm", "-n", 30, "--whole")
    assert "characters …" not in out


# --- what does not ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "parts", "code"),
    [
        ({"tasks": {"cell_tipe": None}}, ["no task 'cell_tipe'", "'cell_type'"], 2),
        ({"contxt": 3}, ["unknown field 'contxt'", "'context'"], 2),
        ({"context": 1}, ["context = 1"], 2),
        ({"sources": [{"data": "no.h5ad"}]}, ["no.h5ad"], 1),
        ({"sources": [{"data": "cells.h5ad", "layer": "cnts"}]}, ["cells.h5ad", "cnts"], 1),
        (
            {"sources": [{"data": "cells.h5ad", "columns": {"tissue": "tisue"}}]},
            ["tisue", "tissue"],
            1,
        ),
        ({"sources": [{"data": "cells.h5ad", "keep": {"cell_type": "x"}}]}, ["keep"], 1),
        ({"sources": [{"data": "cells.h5ad"}] * 2}, ["cells.h5ad", "two sources"], 2),
        ({"sources": [{"data": "sets.gmt"}]}, ["sets.gmt"], 1),
        ({"gene_sets": ["cells.h5ad"]}, ["cells.h5ad", "GMT"], 1),
        ({"abstracts": "no.jsonl"}, ["no.jsonl"], 1),
        ({"abstracts": "sets.gmt"}, ["sets.gmt"], 1),
        ({"tokenizer": "nowhere"}, ["nowhere", "tokenizer"], 1),
        ({"prompts": "nowhere"}, ["nowhere"], 1),
        ({"quality": {"min_genes": 100_000}}, ["no cell", "min_genes"], 1),
        ({"split": {"held_out_studies": ["Z"]}}, ["'Z'", "held_out_studies"], 2),
    ],
    ids=lambda x: "-".join(map(str, x)) if isinstance(x, dict) else None,
)
@pytest.mark.parametrize("dry", [False, True], ids=["build", "dry run"])
def test_a_recipe_that_cannot_work(c2s, changed, tmp_path, changes, parts, code, dry):
    if dry and "quality" in changes:
        pytest.skip("cells are not looked at before the build")
    where = ["--dry-run"] if dry else ["-o", tmp_path / "c"]
    one_line(c2s("build", changed(**changes), "--workers", 1, *where), *parts, expected=code)
    assert not (tmp_path / "c" / "manifest.json").exists()


def test_wrong_use_of_build(c2s, home, tmp_path):
    recipe = home / "r.yaml"
    one_line(c2s("build", recipe), "--out is missing", expected=2)
    one_line(c2s("build", tmp_path / "no.yaml", "-o", "c"), "no.yaml", "cannot be read")
    one_line(c2s("build", tmp_path, "-o", "c"), "is a folder", expected=2)
    one_line(c2s("build", recipe, "-o", "c", "--engine", "dask"), "--engine", "dask", expected=2)
    one_line(c2s("build", recipe, "-o", "c", "--workers", 0), "--workers", expected=2)
    one_line(c2s("build", recipe, "-o", home), "cells.h5ad", "another folder", expected=2)
    one_line(c2s("build", recipe, "-o", recipe), "is a file", expected=2)
    one_line(c2s("build", recipe, "-o", recipe / "below"), "r.yaml", "below", expected=2)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("command", ["verify", "stats", "sample"])
def test_a_folder_that_is_no_corpus(c2s, home, tmp_path, command):
    one_line(c2s(command, tmp_path / "nowhere"), "nowhere", "is no corpus")
    one_line(c2s(command, home), home, "is no corpus")
    one_line(c2s(command, home / "r.yaml"), "is no corpus")
    one_line(c2s(command), "Missing argument", expected=2)
    (tmp_path / "begun" / "work").mkdir(parents=True)
    one_line(c2s(command, tmp_path / "begun"), "not complete", "c2s corpus build")
    for content, says in (("{", "is damaged"), ('{"seconds": 1}', "no manifest of a corpus")):
        (tmp_path / "begun" / "manifest.json").write_text(content)
        one_line(c2s(command, tmp_path / "begun"), "manifest.json", says)


def test_a_damaged_corpus(c2s, home, tmp_path):
    corpus = shutil.copytree(home / "corpus", tmp_path / "c")
    victim = next(iter(corpus.glob("tokens/train/*.arrow")))
    victim.write_bytes(victim.read_bytes()[:100])
    one_line(c2s("sample", corpus, "-n", 100), victim.name)
    victim.unlink()
    one_line(c2s("sample", corpus, "-n", 100), victim.name)
    (corpus / "genes.txt").unlink()
    one_line(c2s("sample", corpus), "genes.txt")
    next(iter(corpus.glob("units/*"))).write_text("{")
    one_line(c2s("stats", corpus), "units")


def test_wrong_use_of_sample(c2s, home):
    corpus = home / "corpus"
    one_line(c2s("sample", corpus, "--task", "tisue"), "'tisue'", "tissue", expected=2)
    one_line(
        c2s("sample", corpus, "--split", "held_out"), "'held_out'", "train, val, test", expected=2
    )
    one_line(c2s("sample", corpus, "-n", 0), "-n", expected=2)
    one_line(c2s("sample", corpus, "--seed", -1), "--seed", expected=2)


def test_help(c2s):
    code, out, err = c2s()
    assert (code, err) == (2, "")
    for command in ("build", "verify", "stats", "sample"):
        assert command in out
    one_line(c2s("bild"), "bild", "build", expected=2)
