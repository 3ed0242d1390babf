"""The command line as a person meets it: results, one clear line on failure, exit codes, nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import anndata as ad
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from c2s import tl
from c2s.cells.sentences import cell_sentences
from c2s.models.directory import load_model


@pytest.fixture
def h5ad(cut, tmp_path):
    path = tmp_path / "cut.h5ad"
    cut[::6].copy().write_h5ad(path)
    return path


def one_line(code, err, *parts, expected=1):
    assert code == expected, err
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert "Traceback" not in err
    for part in parts:
        assert part in err


def test_help_names_every_command_and_loads_nothing_heavy():
    script = (
        "import sys; sys.argv = ['c2s', '--help']\n"
        "from c2s.cli.main import main\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'transformers', 'scanpy', 'anndata', 'numba', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith("[]")
    for command in (
        "demo",
        "inspect",
        "sentences",
        "expression",
        "train",
        "annotate",
        "explain",
        "embed",
        "generate",
    ):
        assert f" {command} " in done.stdout


def test_version(c2s):
    code, out, _ = c2s("--version")
    assert code == 0
    assert out.strip() == "0.1.0"


def test_sentences_to_terminal_text_and_parquet(c2s, h5ad, tmp_path):
    adata = ad.read_h5ad(h5ad)
    expected = cell_sentences(adata, top_k=20, seed=3).to_text().to_pylist()
    code, out, _ = c2s("sentences", h5ad, "--top-k", 20, "--seed", 3)
    assert code == 0
    assert out.splitlines() == expected
    assert c2s("sentences", h5ad, "--top-k", 20, "--seed", 3, "-o", tmp_path / "s.txt")[0] == 0
    assert (tmp_path / "s.txt").read_text().splitlines() == expected
    assert c2s("sentences", h5ad, "--top-k", 20, "--seed", 3, "-o", tmp_path / "s.parquet")[0] == 0
    table = pq.read_table(tmp_path / "s.parquet")
    assert table["cell_sentence"].to_pylist() == expected
    assert table["cell_id"].to_pylist() == adata.obs_names.tolist()


def test_sentences_and_back_to_expression(c2s, h5ad, tmp_path):
    assert c2s("sentences", h5ad, "--top-k", 50, "-o", tmp_path / "s.parquet")[0] == 0
    code, out, _ = c2s(
        "expression", tmp_path / "s.parquet", "--like", h5ad, "-o", tmp_path / "e.h5ad", "--json"
    )
    assert code == 0
    assert json.loads(out)["invalid_words"] == 0
    back, adata = ad.read_h5ad(tmp_path / "e.h5ad"), ad.read_h5ad(h5ad)
    cells = cell_sentences(adata, top_k=50)
    assert back.obs_names.tolist() == adata.obs_names.tolist()
    for i in (0, 7):
        named = set(back.var_names[back.X[i].indices])
        assert named == set(cells.words(i))


def test_inspect_says_what_is_wrong_and_how_to_mend_it(c2s, h5ad, tmp_path):
    code, out, _ = c2s("inspect", h5ad, "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["n_cells"], found["kind"]) == (25, "counts")
    scaled = ad.read_h5ad(h5ad)
    scaled.X = scaled.X.toarray() - 1.0
    scaled.write_h5ad(tmp_path / "scaled.h5ad")
    code, out, _ = c2s("inspect", tmp_path / "scaled.h5ad")
    assert code == 0
    assert "scaled" in out
    assert "→" in out


def test_annotate_writes_labels_and_keeps_the_input(c2s, h5ad, model_folder, tmp_path):
    before = h5ad.read_bytes()
    code, out, err = c2s(
        "annotate",
        h5ad,
        "-o",
        tmp_path / "a.h5ad",
        "--model",
        model_folder,
        "--truth",
        "cell_type",
        "--json",
    )
    assert code == 0, err
    adata = ad.read_h5ad(tmp_path / "a.h5ad")
    assert adata.obs["c2s_confidence"].between(0, 1).all()
    right = (adata.obs["c2s_cell_type"].astype(str) == adata.obs["cell_type"].astype(str)).mean()
    assert json.loads(out)["accuracy"] == pytest.approx(right)
    assert h5ad.read_bytes() == before


def test_annotate_writes_the_top_labels_and_abstains(c2s, h5ad, model_folder, tmp_path):
    code, out, err = c2s(
        "annotate", h5ad, "-o", tmp_path / "a.h5ad", "--model", model_folder, "--top-n", 2,
        "--entropy-key", "h", "--min-confidence", 1, "--unknown", "unclear", "--json",
    )  # fmt: skip
    assert code == 0, err
    adata = ad.read_h5ad(tmp_path / "a.h5ad")
    unclear = adata.obs["c2s_confidence"] < 1
    assert unclear.any()
    assert (adata.obs["c2s_cell_type"][unclear] == "unclear").all()
    assert json.loads(out)["labels"]["unclear"] == unclear.sum()
    assert adata.obsm["c2s_cell_type_top"].shape == (25, 4)
    assert (adata.obs["h"] >= 0).all()


def test_annotate_finds_the_model_in_the_environment(
    c2s, h5ad, model_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("C2S_MODEL", str(model_folder))
    assert c2s("annotate", h5ad, "-o", tmp_path / "a.h5ad")[0] == 0


def test_embed(c2s, h5ad, model_folder, tmp_path):
    assert c2s("embed", h5ad, "-o", tmp_path / "e.h5ad", "--model", model_folder)[0] == 0
    assert ad.read_h5ad(tmp_path / "e.h5ad").obsm["X_c2s"].shape == (25, 48)


def test_embed_goes_on_where_it_was_broken_off(c2s, h5ad, model_folder, tmp_path, monkeypatch):
    from c2s.analysis.embed import Embedding

    command = [
        "embed", h5ad, "-o", tmp_path / "e.h5ad", "--model", model_folder, "--tokens", "cell", "--chunk-size", 10,
    ]  # fmt: skip
    columns, asked = Embedding.columns, []

    def stopped(self, start, stop, progress=None):
        asked.append(start)
        if asked == [0, 10]:
            raise KeyboardInterrupt
        return columns(self, start, stop, progress)

    monkeypatch.setattr(Embedding, "columns", stopped)
    one_line(*_code_err(c2s(*command)), "stopped", expected=130)
    code, out, err = c2s(*command)
    assert code == 0, err
    assert asked == [0, 10, 10, 20]
    assert "25 cells (10 of them finished by an earlier run) × 48 in obsm['X_c2s']" in out
    done, wanted = ad.read_h5ad(tmp_path / "e.h5ad"), ad.read_h5ad(h5ad)
    tl.embed(wanted, load_model(model_folder), tokens="cell", chunk_size=10)
    np.testing.assert_array_equal(done.obsm["X_c2s"], wanted.obsm["X_c2s"])
    code, _, err = c2s(*command[:-3], "genes")
    one_line(code, err, "'genes' is unknown", expected=2)


def test_other_formats_and_old_files_are_read_whole(c2s, h5ad, model_folder, tmp_path):
    ad.read_h5ad(h5ad).write_zarr(tmp_path / "cut.zarr")
    for source in (h5ad, tmp_path / "cut.zarr"):
        code, _, err = c2s(
            "annotate", source, "-o", tmp_path / f"{source.stem}-{source.suffix[1:]}.h5ad", "--model", model_folder
        )  # fmt: skip
        assert code == 0, err
    streamed, whole = (ad.read_h5ad(tmp_path / f"cut-{kind}.h5ad") for kind in ("h5ad", "zarr"))
    assert streamed.obs.equals(whole.obs)
    with h5py.File(h5ad, "r+") as file:  # as an anndata before 0.7 wrote tables
        for table, names in (("obs", whole.obs_names), ("var", whole.var_names)):
            del file[table]
            file[table] = np.array([n.encode() for n in names], dtype=[("index", "S60")])
        for key in list(file.attrs):
            del file.attrs[key]
    code, _, err = c2s("annotate", h5ad, "-o", tmp_path / "old.h5ad", "--model", model_folder)
    assert code == 0, err
    old = ad.read_h5ad(tmp_path / "old.h5ad").obs["c2s_confidence"]
    np.testing.assert_array_equal(old, whole.obs["c2s_confidence"])


def test_where_the_weights_go(c2s, h5ad, model_folder, tmp_path):
    command = ["annotate", h5ad, "-o", tmp_path / "a.h5ad", "--model", model_folder]
    assert c2s(*command, "--device-map", "cpu")[0] == 0
    code, _, err = c2s(*command, "--quantize", "3bit")
    one_line(code, err, "'3bit' is unknown", "4bit", expected=2)
    code, _, err = c2s(*command, "--device-map", "auto", "--device", "cpu")
    one_line(code, err, "give one of them", expected=2)


def test_generate_from_a_request_in_english(c2s, model_folder):
    code, out, err = c2s(
        "generate", "--prompt", "generate 7 human beta cells", "--model", model_folder
    )
    assert code == 0
    assert "n=7, cell_type=beta, organism=Homo sapiens" in err
    lines = [line.split("\t") for line in out.splitlines()]
    assert [t for t, _ in lines] == ["beta"] * 7
    assert {len(s.split()) for _, s in lines} == {16}


def test_generate_by_type_to_a_file_repeats_exactly(c2s, model_folder, tmp_path):
    for name in ("a.h5ad", "b.h5ad"):
        assert (
            c2s(
                "generate",
                "--cell-type",
                "beta",
                "--n",
                20,
                "--model",
                model_folder,
                "-o",
                tmp_path / name,
            )[0]
            == 0
        )
    a, b = (ad.read_h5ad(tmp_path / n) for n in ("a.h5ad", "b.h5ad"))
    assert a.n_obs == 20
    assert a.obs["cell_sentence"].tolist() == b.obs["cell_sentence"].tolist()
    assert len(set(a.obs["cell_sentence"])) > 1


@pytest.mark.parametrize(
    "request_",
    ["generate 7 human cells from kidney tissue", "5 hepatocytes", "list kidney beta cells"],
)
def test_a_request_that_is_not_understood_goes_to_the_model_as_it_is(c2s, model_folder, request_):
    code, out, err = c2s("generate", "--prompt", request_, "--model", model_folder)
    assert code == 0
    one_line(1, err, "never saw", "acinar", "beta", "ductal", "goes to the model as it is")
    lines = [line.split("\t") for line in out.splitlines()]
    assert {prompt for prompt, _ in lines} == {request_}
    assert {len(set(sentence.split())) for _, sentence in lines} == {16}
    assert len(lines) == {"g": 7, "5": 5, "l": 1}[request_[0]]
    code, out, err = c2s("generate", "--prompt", request_, "--strict", "--model", model_folder)
    one_line(code, err, "never saw", "acinar", "beta", "ductal", expected=2)
    assert out == ""


def test_a_request_that_counts_genes(c2s, model_folder):
    command = ["generate", "--model", model_folder, "--prompt", "2 beta cells of 5 genes"]
    code, out, err = c2s(*command)
    assert (code, err) == (0, "understood as: n=2, cell_type=beta, top_k=5\n")
    assert [len(line.split("\t")[1].split()) for line in out.splitlines()] == [5, 5]
    code, _, err = c2s(*command, "--top-k", 6)
    one_line(code, err, "the request says 5 genes, and --top-k 6 is given", expected=2)


def test_an_organism_beside_a_request_that_is_not_understood_is_kept(c2s, model_folder, tmp_path):
    command = ["generate", "--model", model_folder, "--prompt", "odd cells", "--organism", "Homo sapiens"]  # fmt: skip
    code, out, err = c2s(*command)
    assert code == 0, err
    assert out.startswith("odd cells\t")
    assert c2s(*command, "-o", tmp_path / "o.h5ad")[0] == 0
    obs = ad.read_h5ad(tmp_path / "o.h5ad").obs
    assert obs["organism"].tolist() == ["Homo sapiens"]
    assert "cell_type" not in obs


def test_messages_about_arguments_name_options(c2s, h5ad, model_folder):
    annotate = ["annotate", h5ad, "-o", "a.h5ad", "--model", model_folder]
    for options, said in (
        (["--label", "beta", "--label", "Beta"], "--label must be different texts"),
        (["--genes", "no_such"], "--genes 'no_such' is neither a rule"),
        (["--every-term"], "--every-term needs --labels-below"),
        (["--back-off", "--ontology", "x.obo"], "x.obo"),
        (["--dtype", "float8"], "--dtype 'float8' is unknown"),
    ):
        code, _, err = c2s(*annotate, *options)
        one_line(code, err, said, expected=1 if said == "x.obo" else 2)
    code, _, err = c2s("generate", "--top-p", 3, "--model", model_folder)
    one_line(code, err, "--top-p 3.0 is outside", expected=2)


def test_generate_with_soft_control(c2s, model_folder, tmp_path):
    (tmp_path / "forbidden.txt").write_text("INS\nGCG\n")
    code, out, _ = c2s(
        "generate", "--cell-type", "beta", "-n", 4, "--forbid", tmp_path / "forbidden.txt",
        "--require", "sst,TTR", "--temperature", 1, "--temperature-end", 0, "--model", model_folder,
    )  # fmt: skip
    assert code == 0
    for line in out.splitlines():
        genes = set(line.split("\t")[1].split())
        assert {"SST", "TTR"} <= genes
        assert not genes & {"INS", "GCG"}


def test_generate_without_many_genes(c2s, model_folder, cut_genes):
    """More genes than a name of a file may have letters."""
    without = ",".join(cut_genes.words[:80])
    code, out, err = c2s("generate", "--cell-type", "beta", "--forbid", without, "--model", model_folder)  # fmt: skip
    assert code == 0, err
    assert not set(out.split("\t")[1].split()) & set(cut_genes.words[:80])


def test_generate_a_sample_from_a_request_or_from_options(
    c2s, gene_tokenizer, make_model, tmp_path
):
    conditions = {"tissue": ["kidney", "liver"], "organism": ["Homo sapiens"]}
    card = {"tasks": ["cond_sample_tissue", "sc_lm"], "conditions": conditions, "top_k": 5}
    make_model(gene_tokenizer, card=card).save(tmp_path / "model")
    options = ("--model", tmp_path / "model", "--seed", 3)
    code, out, err = c2s(
        "generate", "--prompt", "generate 7 human cells from kidney tissue", *options
    )
    assert code == 0
    one_line(1, err, "understood as: n=7, tissue=kidney, organism=Homo sapiens")
    lines = [line.split("\t") for line in out.splitlines()]
    assert [line[:2] for line in lines] == [["3-0", "kidney"]] * 7
    assert {len(set(sentence.split())) for *_, sentence in lines} == {5}
    assert c2s("generate", "--tissue", "kidney", "-n", 7, *options)[1] == out
    _, two, _ = c2s(
        "generate", "--tissue", "kidney", "-n", 7, "--per-sample", 4, *options, "--json"
    )
    assert [cell["sample"] for cell in json.loads(two)] == ["3-0"] * 4 + ["3-1"] * 3
    code, out, _ = c2s("generate", "-n", 2, *options)
    assert code == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == ["Homo sapiens"] * 2


def test_generate_by_what_the_model_has_no_task_for(c2s, model_folder):
    code, _, err = c2s("generate", "--tissue", "kidney", "--model", model_folder)
    one_line(code, err, "tissue", "cells by cell_type (cond_cell)", expected=2)
    code, _, err = c2s("generate", "--condition", "n=3", "--model", model_folder)
    one_line(code, err, "--condition 'n=3'", "name=text", expected=2)
    code, _, err = c2s("generate", "--condition", "colour=red", "--model", model_folder)
    one_line(code, err, "'colour'", "abstract", "tissue", expected=2)


def test_a_request_without_a_number_leaves_it_to_the_option(c2s, model_folder):
    code, out, err = c2s("generate", "--prompt", "beta cells", "--n", 3, "--model", model_folder)
    assert code == 0
    assert len(out.splitlines()) == 3
    assert err == "understood as: n=3, cell_type=beta\n"
    code, _, err = c2s("generate", "--prompt", "2 beta cells", "--n", 3, "--model", model_folder)
    assert code == 2
    assert "2 cells" in err


def test_a_device_that_is_not_there(c2s, h5ad, model_folder, tmp_path):
    for device in ("gpu", "mps"):
        code, _, err = c2s(
            "annotate", h5ad, "-o", tmp_path / "a.h5ad", "--model", model_folder, "--device", device
        )
        one_line(code, err, device, "cpu", expected=2)


def test_an_unknown_type_is_tried_with_a_warning_and_refused_when_strict(c2s, model_folder):
    code, out, err = c2s("generate", "--cell-type", "betta", "--model", model_folder)
    assert code == 0
    assert "never saw" in err
    assert "nearest: beta" in err
    assert out.startswith("betta\t")
    code, out, err = c2s("generate", "--cell-type", "betta", "--strict", "--model", model_folder)
    one_line(code, err, "never saw", expected=2)


# --- unhappy paths ----------------------------------------------------------------------------


def test_no_model_says_how_to_get_one(c2s, h5ad, tmp_path):
    code, _, err = c2s("annotate", h5ad, "-o", tmp_path / "a.h5ad")
    one_line(code, err, "c2s demo", "--model", "C2S_MODEL", expected=2)


def test_missing_file(c2s):
    code, _, err = c2s("inspect", "nowhere.h5ad")
    one_line(code, err, "nowhere.h5ad")


def test_truncated_h5ad(c2s, h5ad, model_folder, tmp_path):
    cut_short = tmp_path / "short.h5ad"
    cut_short.write_bytes(h5ad.read_bytes()[:5000])
    for command in (["inspect"], ["annotate", "-o", tmp_path / "a.h5ad", "--model", model_folder]):
        code, _, err = c2s(command[0], cut_short, *command[1:])
        one_line(code, err, "short.h5ad")
    assert not (tmp_path / "a.h5ad").exists()


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (-1.0, "negative"), (np.inf, "inf")])
def test_a_matrix_that_cannot_be_ranked(c2s, h5ad, model_folder, tmp_path, value, word):
    adata = ad.read_h5ad(h5ad)
    adata.X = adata.X.toarray()
    adata.X[3, 11] = value
    adata.write_h5ad(tmp_path / "bad.h5ad")
    for command in (
        ["sentences"],
        ["annotate", "-o", tmp_path / "a.h5ad", "--model", model_folder],
    ):
        code, _, err = c2s(command[0], tmp_path / "bad.h5ad", *command[1:])
        one_line(code, err, word)
    assert not (tmp_path / "a.h5ad").exists()


def test_all_zero_cells_are_named_and_the_rest_is_done(c2s, h5ad, model_folder, tmp_path):
    adata = ad.read_h5ad(h5ad)
    dense = adata.X.toarray()
    dense[4] = 0
    adata.X = sp.csr_matrix(dense)
    adata.write_h5ad(tmp_path / "zero.h5ad")
    code, _, err = c2s(
        "annotate", tmp_path / "zero.h5ad", "-o", tmp_path / "a.h5ad", "--model", model_folder
    )
    one_line(code, err, adata.obs_names[4], expected=0)
    done = ad.read_h5ad(tmp_path / "a.h5ad")
    assert done.obs["c2s_cell_type"].isna().sum() == 1


def test_unknown_label_column_and_key_in_use(c2s, h5ad, model_folder, tmp_path):
    code, _, err = c2s(
        "annotate", h5ad, "-o", tmp_path / "a.h5ad", "--model", model_folder, "--truth", "celltype"
    )
    one_line(code, err, "celltype", "cell_type", expected=2)
    code, _, err = c2s(
        "annotate", h5ad, "-o", tmp_path / "a.h5ad", "--model", model_folder, "--key", "cell_type"
    )
    one_line(code, err, "cell_type", "exists already", expected=2)


def test_a_model_directory_without_its_vocabulary(c2s, h5ad, model_folder, tmp_path):
    broken = tmp_path / "model"
    shutil.copytree(model_folder, broken)
    content = json.loads((broken / "c2s.json").read_text())
    del content["vocabulary"]
    (broken / "c2s.json").write_text(json.dumps(content))
    code, _, err = c2s("annotate", h5ad, "-o", tmp_path / "a.h5ad", "--model", broken)
    one_line(code, err, "c2s.json", "vocabulary")
    (broken / "c2s.json").unlink()
    code, _, err = c2s("annotate", h5ad, "-o", tmp_path / "a.h5ad", "--model", broken)
    one_line(code, err, "c2s.json")


def test_no_space_on_the_disk_leaves_the_old_file(c2s, h5ad, model_folder, tmp_path, monkeypatch):
    import errno

    old = tmp_path / "a.h5ad"
    old.write_bytes(b"old")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    import shutil

    ad.read_h5ad(h5ad).write_zarr(tmp_path / "cut.zarr")
    monkeypatch.setattr(ad.AnnData, "write_h5ad", full)
    monkeypatch.setattr(shutil, "copyfile", full)
    for source in (h5ad, tmp_path / "cut.zarr"):
        code, _, err = c2s("annotate", source, "-o", old, "--model", model_folder)
        one_line(code, err, "a.h5ad", "no space left")
        assert old.read_bytes() == b"old"
        assert not list(tmp_path.glob(".c2s-*"))


def test_wrong_use(c2s, h5ad, model_folder, tmp_path):
    one_line(*_code_err(c2s("annotate", h5ad)), "--out", expected=2)
    one_line(*_code_err(c2s("generate", "--bogus")), "--bogus", expected=2)
    one_line(
        *_code_err(c2s("annotate", h5ad, "-o", tmp_path / "a.csv", "--model", model_folder)),
        ".h5ad",
        expected=2,
    )
    one_line(
        *_code_err(
            c2s("annotate", h5ad, "-o", tmp_path / "no" / "a.h5ad", "--model", model_folder)
        ),
        "does not exist",
        expected=2,
    )
    one_line(
        *_code_err(c2s("generate", "--prompt", "beta", "--cell-type", "beta")),
        "not both",
        expected=2,
    )
    one_line(
        *_code_err(c2s("sentences", h5ad, "--genes", "no_such_rule")), "no_such_rule", expected=2
    )


def _code_err(result):
    return result[0], result[2]


# --- training ---------------------------------------------------------------------------------

RECIPE = """
data: {data}
top_k: 16
min_cells: 2
tasks:
  cell_type: {{thin: 0.5}}
  cond_cell: {{}}
optimisation: {{steps: 3, batch_size: 4, optimizer: muon}}
"""


@pytest.fixture
def recipe(h5ad, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(data=h5ad))
    return path


def test_train_leaves_a_directory_that_can_be_asked(c2s, recipe, h5ad, tmp_path):
    code, out, err = c2s("train", recipe, "-o", tmp_path / "run", "--json", "--device", "cpu")
    assert code == 0, err
    assert set(json.loads(out)["validation_loss"]) <= {"cell_type", "cond_cell"}
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "model",
        "recipe.json",
        "losses.jsonl",
        "split.csv",
        "manifest.json",
    }
    assert c2s("generate", "--cell-type", "beta", "--model", tmp_path / "run" / "model")[0] == 0
    # Run again from the recipe that was left: the same weights.
    code, _, err = c2s(
        "train", tmp_path / "run" / "recipe.json", "-o", tmp_path / "again", "--device", "cpu"
    )
    assert code == 0, err
    weights = [
        (tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("run", "again")
    ]
    assert weights[0] == weights[1]


def test_train_dry_run_counts_and_writes_nothing(c2s, recipe, tmp_path):
    code, out, _ = c2s("train", recipe, "-o", tmp_path / "run", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["examples"] == 12
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("top_k: 16", "topk: 16", ["'topk'", "did you mean 'top_k'"]),
        ("steps: 3", "steps: 0", ["optimisation.steps", "0"]),
        ("cond_cell:", "cond_sell:", ["cond_sell"]),
        ("top_k: 16", "columns: {cell_type: celltype}\ntop_k: 16", ["celltype", "cell_type"]),
        ("top_k: 16", "top_k: 5000", ["5000"]),
        ("top_k: 16", "preset: maxi", ["maxi", "mini"]),
        ("  cell_type: {thin: 0.5}\n  cond_cell: {}\n", "  {}\n", ["tasks"]),
    ],
)
def test_a_recipe_that_cannot_work_names_the_field(c2s, recipe, tmp_path, old, new, parts):
    recipe.write_text(recipe.read_text().replace(old, new))
    code, _, err = c2s("train", recipe, "-o", tmp_path / "run")
    assert code in (1, 2)
    one_line(code, err, *parts, expected=code)
    assert not (tmp_path / "run").exists()


def test_a_prompt_pack_of_ones_own_goes_with_the_model(c2s, recipe, tmp_path):
    pack = tmp_path / "mine"
    pack.mkdir()
    (pack / "cell_type.toml").write_text(
        'prompts = ["{cell_sentence} What {{is}} it?"]\nresponse = "{cell_type}"'
    )
    (pack / "cond_cell.toml").write_text(
        'prompts = ["A {cell_type}:"]\nresponse = "{cell_sentence}"'
    )
    recipe.write_text(recipe.read_text() + f"prompts: {pack}\n")
    assert c2s("train", recipe, "-o", tmp_path / "run", "--device", "cpu")[0] == 0
    shutil.rmtree(pack)
    model = load_model(tmp_path / "run" / "model")
    template = model.prompts.wording("cell_type").prompts[0]
    assert template.fill({"cell_sentence": "INS GCG"}) == ["INS GCG What {is} it?"]
    assert c2s("generate", "--cell-type", "beta", "--model", tmp_path / "run" / "model")[0] == 0


def test_train_keeps_a_folder_that_only_looks_like_a_run(c2s, recipe, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text("{}")
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert c2s("train", recipe, "-o", tmp_path / "mine")[0] == 2
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_train_refuses_a_folder_that_is_not_a_run(c2s, recipe, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    one_line(*_code_err(c2s("train", recipe, "-o", tmp_path / "mine")), "mine", expected=2)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
