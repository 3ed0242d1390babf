"""`c2s annotate --what`, over an ontology and beside the truth; `c2s calibrate`; `c2s geneset`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from c2s.cli.agreement import agreement
from c2s.cli.files import text_lines
from c2s.cli.options import gene_names

EXCERPT = Path(__file__).parents[1] / "knowledge" / "data" / "cl_excerpt.obo"


@pytest.fixture
def h5ad(regions, tmp_path):
    path = tmp_path / "cut.h5ad"
    regions[::6].copy().write_h5ad(path)
    return path


@pytest.fixture
def terms(tmp_path):
    path = tmp_path / "terms.tsv"
    path.write_text(
        "label\tterm\nacinar\tpancreatic acinar cell\nalpha\tCL:0000171\nbeta\tpancreatic beta cell\n"
        "delta\tpancreatic D cell\nductal\tpancreatic ductal cell\n"
    )
    return path


class TestAnnotate:
    def test_says_how_well_it_agrees_with_the_truth(self, c2s, h5ad, model_folder, tmp_path):
        code, out, err = c2s(
            "annotate", h5ad, "-o", tmp_path / "a.h5ad", "--model", model_folder, "--truth", "cell_type", "--json",
        )  # fmt: skip
        assert code == 0, err
        found = json.loads(out)
        obs = ad.read_h5ad(tmp_path / "a.h5ad").obs
        right = obs["c2s_cell_type"].astype(str) == obs["cell_type"].astype(str)
        assert found["accuracy"] == pytest.approx(right.mean())
        p = obs["c2s_confidence"].to_numpy()
        bins = np.clip(np.ceil(p * 10), 1, 10)
        ece = sum(
            abs(p[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean()
            for b in np.unique(bins)
        )
        assert found["expected_calibration_error"] == pytest.approx(ece)
        assert 0 < found["macro_f1"] <= 1

    def test_below_a_term_and_backing_off(self, c2s, h5ad, model_folder, terms, tmp_path):
        out_file = tmp_path / "a.h5ad"
        options = ["--model", model_folder, "--ontology", EXCERPT, "--label-terms", terms]
        code, _, err = c2s(
            "annotate", h5ad, "-o", out_file, *options, "--labels-below", "pancreatic endocrine cell",
        )  # fmt: skip
        assert code == 0, err
        adata = ad.read_h5ad(out_file)
        assert set(adata.obs["c2s_cell_type"]) <= {"alpha", "beta", "delta"}
        assert "endocrine cell" in adata.obsm["c2s_cell_type_ancestors"]
        code, out, err = c2s(
            "annotate", h5ad, "-o", out_file, *options, "--min-confidence", 0.999, "--back-off",
            "--json", "--truth", "cell_type",
        )  # fmt: skip
        assert code == 0, err
        labels = json.loads(out)["labels"]
        higher = {"pancreatic endocrine cell", "epithelial cell of pancreas", "endocrine cell"}
        assert set(labels) & (higher | {"exocrine cell", "secretory cell", "epithelial cell"})

    @pytest.mark.parametrize(
        ("what", "key", "truth"),
        [("tissue", "c2s_tissue", "region"), ("sample_cell_types", "c2s_sample_cell_type", "cell_type")],
    )  # fmt: skip
    def test_samples(self, c2s, h5ad, sample_model_folder, tmp_path, what, key, truth):
        code, out, err = c2s(
            "annotate", h5ad, "-o", tmp_path / "a.h5ad", "--model", sample_model_folder, "--what", what,
            "--group-by", "region", "--cells-per-sample", 3, "--truth", truth, "--json",
        )  # fmt: skip
        assert code == 0, err
        found = json.loads(out)
        obs = ad.read_h5ad(tmp_path / "a.h5ad").obs
        assert obs[f"{key}_confidence"].between(0, 1).all()
        assert obs["c2s_sample"].value_counts().max() == 3
        right = (obs[key].astype(str) == obs[truth].astype(str)).mean()
        assert found["accuracy"] == pytest.approx(right)
        assert sum(found["labels"].values()) == found["cells"] == 25
        assert {"macro_f1", "expected_calibration_error"} <= set(found)

    def test_what_does_not_go_together(self, c2s, h5ad, sample_model_folder, tmp_path):
        out = ["-o", tmp_path / "a.h5ad", "--model", sample_model_folder]
        code, _, err = c2s("annotate", h5ad, *out, "--what", "tissue", "--top-n", 2)
        assert (code, err) == (2, "c2s: --top-n goes with --what cell_type, not with tissue\n")
        for option, value in (("--group-by", "region"), ("--cells-per-sample", 5)):
            code, _, err = c2s("annotate", h5ad, *out, option, value)
            assert (code, err) == (
                2,
                f"c2s: {option} goes with --what tissue or sample_cell_types\n",
            )
        code, _, err = c2s("annotate", h5ad, *out, "--what", "organ")
        assert code == 2
        assert len(err.splitlines()) == 1
        code, _, err = c2s("annotate", h5ad, *out)
        assert code == 2
        assert "the model was not trained on annotation; its tasks: gene_set_enum" in err

    def test_the_output_may_be_the_input(self, c2s, h5ad, model_folder):
        before = ad.read_h5ad(h5ad)
        code, _, err = c2s("annotate", h5ad, "-o", h5ad, "--model", model_folder)
        assert code == 0, err
        after = ad.read_h5ad(h5ad)
        assert (after.X != before.X).nnz == 0
        assert set(after.obs) == {*before.obs, "c2s_cell_type", "c2s_confidence"}


class TestAgreement:
    def test_by_hand(self):
        truth = pd.Series(["a", "a", "b", "b", None], name="t")
        answers = pd.Series(["a", "unknown", "a", None, "b"])
        confidence = pd.Series([0.75, 0.25, 0.75, np.nan, 1.0])
        facts, text = agreement(truth, answers, confidence, ["a", "b"])
        # F1: a 2·1/(2+2), b 0, unknown 0, no answer 0. Of the two labels at 0.75, one is right.
        wanted = {"accuracy": 0.25, "macro_f1": 0.125, "expected_calibration_error": 0.25}
        assert facts == pytest.approx(wanted)
        assert text == (
            "agrees with obs['t'] for 25.0% of the cells; macro F1 0.125, expected calibration error 0.250"
        )

    def test_true_labels_are_spelled_as_the_answers(self):
        truth = pd.Series(["A", "b"], name="t")
        sure = pd.Series([1.0, 1.0])
        facts, _ = agreement(truth, pd.Series(["a", "b"]), sure, ["a", "b"], str.lower)
        assert facts["accuracy"] == 1
        assert agreement(truth, pd.Series(["a", "b"]), sure, ["a", "b"])[0]["accuracy"] == 0.5

    def test_nothing_to_compare(self):
        none = pd.Series([None, None], name="t", dtype=object)
        assert agreement(none, pd.Series(["a", "b"]), pd.Series([1.0, 1.0]), ["a"])[0] == {}
        facts, _ = agreement(
            pd.Series(["a"], name="t"), pd.Series(["unknown"]), pd.Series([0.5]), ["a"]
        )
        assert set(facts) == {"accuracy", "macro_f1"}


class TestCalibrate:
    def test_labels_are_compared_as_in_agreement(self, c2s, cut, own, tmp_path):
        """Written in capitals, the same labels are right as often, and calibrate the same."""
        few = cut[::6].copy()
        few.obs["shouted"] = few.obs["cell_type"].astype(str).str.upper()
        few.write_h5ad(tmp_path / "few.h5ad")
        said = {}
        for truth in ("cell_type", "shouted"):
            options = ["few.h5ad", "--model", own, "--truth", truth, "--json"]
            code, out, err = c2s("annotate", "-o", "a.h5ad", *options)
            assert code == 0, err
            found = json.loads(out)
            code, out, err = c2s("calibrate", "-o", tmp_path / truth, *options)
            assert code == 0, err
            said[truth] = {**found, "temperature": json.loads(out)["temperature"]}
        assert said["shouted"] == said["cell_type"]
        assert said["shouted"]["accuracy"] > 0.5

    @pytest.fixture
    def own(self, model_folder, tmp_path):
        return Path(shutil.copytree(model_folder, tmp_path / "own"))

    def test_keeps_the_temperature_in_the_model(self, c2s, h5ad, own, tmp_path):
        before = {p.name: p.read_bytes() for p in own.iterdir()}
        code, out, err = c2s("calibrate", h5ad, "--model", own, "--json")
        assert code == 0, err
        found = json.loads(out)
        card = json.loads((own / "c2s.json").read_text())
        assert card["calibration"]["temperature"] == found["temperature"]
        assert (found["n_cells"], type(found["n_cells"])) == (25, int)
        old = json.loads(before.pop("c2s.json"))
        assert {k: v for k, v in card.items() if k != "calibration"} == {
            k: v for k, v in old.items() if k != "calibration"
        }
        assert {p.name: p.read_bytes() for p in own.iterdir() if p.name != "c2s.json"} == before
        # Annotation is as sure as it says it will be.
        code, out, err = c2s(
            "annotate", h5ad, "-o", tmp_path / "a.h5ad", "--model", own, "--truth", "cell_type", "--json",
        )  # fmt: skip
        assert code == 0, err
        ece = json.loads(out)["expected_calibration_error"]
        assert ece == pytest.approx(found["ece_after"], abs=1e-6)

    def test_or_in_a_copy(self, c2s, h5ad, own, tmp_path):
        before = (own / "c2s.json").read_bytes()
        code, out, err = c2s("calibrate", h5ad, "--model", own, "-o", tmp_path / "copy")
        assert code == 0, err
        assert (own / "c2s.json").read_bytes() == before
        assert json.loads((tmp_path / "copy" / "c2s.json").read_text())["calibration"]
        assert "expected calibration error" in out

    def test_a_column_that_is_not_there(self, c2s, h5ad, own):
        code, _, err = c2s("calibrate", h5ad, "--model", own, "--truth", "label")
        assert code == 2
        assert err.startswith("c2s: obs has no column 'label'; it has: cell_type")


class TestNamesInFiles:
    def test_a_mark_of_the_encoding_is_no_part_of_the_first(self, tmp_path):
        (tmp_path / "labels.txt").write_bytes(b"\xef\xbb\xbfT cell\r\n\r\nB cell\r\n")
        assert text_lines(tmp_path / "labels.txt") == ["T cell", "B cell"]

    def test_genes_of_a_file_are_read_without_its_matrix(self, h5ad, regions, monkeypatch):
        monkeypatch.setattr(ad, "read_h5ad", None)
        assert gene_names(h5ad) == list(regions.var_names)


class TestGeneSet:
    def test_name(self, c2s, sample_model_folder, gene_sets, tmp_path):
        model = ["--model", sample_model_folder]
        code, out, err = c2s("geneset", "name", *gene_sets["keratins"], *model)
        assert code == 0, err
        name, p = out.strip().split("\t")
        assert name == "keratins"
        assert 0 < float(p) <= 1
        gmt = tmp_path / "sets.gmt"
        gmt.write_text(
            "".join(f"SET_{i}\t>\t" + "\t".join(g) + "\n" for i, g in enumerate(gene_sets.values()))
        )
        (tmp_path / "names.txt").write_text("\n".join(gene_sets) + "\n")
        code, out, err = c2s(
            "geneset", "name", gmt, "--names", tmp_path / "names.txt", *model, "--json"
        )
        assert code == 0, err
        found = json.loads(out)["sets"]
        assert [f["name"] for f in found] == list(gene_sets)
        assert [f["set"] for f in found] == ["SET 0", "SET 1", "SET 2", "SET 3"]
        assert sum(found[0]["probabilities"].values()) == pytest.approx(1)
        gmt.write_text("A_B\t>\tINS\tGCG\nA B\t>\tKRT8\tKRT18\n")  # names that read alike
        code, out, err = c2s("geneset", "name", gmt, *model)
        assert code == 0, err
        assert [line.split("\t")[0] for line in out.splitlines()] == ["A B", "A B"]
        (tmp_path / "genes.txt").write_text("INS\nGCG\nSST\n")
        code, out, err = c2s("geneset", "name", tmp_path / "genes.txt", *model)
        assert (code, out.split("\t")[0]) == (0, "islet hormones"), err

    def test_commas_between_genes(self, c2s, sample_model_folder, gene_sets):
        genes, model = gene_sets["keratins"], ["--model", sample_model_folder]
        code, out, err = c2s("geneset", "name", *genes, *model)
        assert code == 0, err
        for words in ([",".join(genes)], [f"{genes[0]},", ", ".join(genes[1:])]):
            assert c2s("geneset", "name", *words, *model)[:2] == (0, out)
        code, _, err = c2s("geneset", "name", ",", *model)
        assert (code, err.startswith("c2s: no gene is named")) == (2, True)

    def test_a_bad_set_does_not_stop_the_others(
        self, c2s, sample_model_folder, gene_sets, tmp_path
    ):
        model = ["--model", sample_model_folder, "--json"]
        good = "KERATINS\t>\t" + "\t".join(gene_sets["keratins"]) + "\n"
        gmt = tmp_path / "sets.gmt"
        gmt.write_text(f"EMPTY\t>\nSTRANGE\t>\tXYZ\n{good}")
        code, out, err = c2s("geneset", "name", gmt, *model)
        assert code == 0, err
        assert [(f["set"], f["name"]) for f in json.loads(out)["sets"]] == [
            ("KERATINS", "keratins")
        ]
        empty, strange = err.splitlines()
        assert empty.startswith("c2s: warning: ")
        assert "line 1 ('EMPTY" in empty
        assert strange.startswith(
            "c2s: warning: STRANGE: the model knows none of the 1 genes (XYZ)"
        )
        gmt.write_text("STRANGE\t>\tXYZ\n")
        code, out, err = c2s("geneset", "name", gmt, *model)
        assert (code, out, len(err.splitlines())) == (1, "", 1)

    def test_enumerate(self, c2s, sample_model_folder, gene_sets, tmp_path):
        model = ["--model", sample_model_folder]
        code, out, err = c2s("geneset", "enumerate", "keratins", "-n", 4, *model)
        assert (code, out.split()) == (0, gene_sets["keratins"]), err
        code, out, err = c2s(
            "geneset", "enumerate", "keratins", "-n", 40, "--own-end", *model, "--json"
        )
        assert code == 0, err
        assert json.loads(out) == {"name": "keratins", "genes": gene_sets["keratins"]}
        (tmp_path / "panel.txt").write_text("KRT8\nINS\n")
        code, out, err = c2s(
            "geneset", "enumerate", "keratins", "-n", 2, "--genes", tmp_path / "panel.txt", *model
        )
        assert (code, sorted(out.split())) == (0, ["INS", "KRT8"]), err

    def test_failures_are_one_line(self, c2s, model_folder, sample_model_folder, tmp_path):
        for args, said in (
            (["name", "XYZ", "--model", sample_model_folder], "knows none of the 1 genes"),
            (["name", "absent.txt", "--model", sample_model_folder], "cannot be read"),
            (["name", "INS", "--model", model_folder], "not trained on 'gene_set_name'"),
            (["enumerate", "x", "--model", model_folder], "not trained on 'gene_set_enum'"),
        ):
            code, _, err = c2s("geneset", *args)
            assert code != 0
            assert said in err
            assert len(err.splitlines()) == 1
