"""Annotation: one of the labels with its probability, written where it was asked for and nowhere else."""

import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import c2s
from c2s.analysis.annotate import label_probabilities
from c2s.common.errors import C2SWarning, InputError, UsageError
from c2s.decoding.engine import TransformersEngine
from c2s.knowledge.ontology import Ontology, Term

TYPES = ["acinar", "alpha", "beta", "delta", "ductal"]


@pytest.fixture
def few(cut):
    """Four cells of each type."""
    return cut[np.sort(np.concatenate([np.arange(0, 150, 30) + i for i in range(4)]))].copy()


@pytest.fixture
def without_genes(few):
    """Two of the cells express nothing."""
    keep = np.ones(few.n_obs)
    keep[[3, 7]] = 0
    few.X = sp.csr_matrix(sp.diags(keep, dtype=few.X.dtype) @ few.X)
    return few


def dense(adata):
    return adata.X.toarray()


class TestAnnotate:
    def test_names_cells_that_the_model_was_trained_on(self, cut, model):
        done = c2s.tl.annotate(cut, model, copy=True)
        found, truth = done.obs["c2s_cell_type"].astype(str), done.obs["cell_type"].astype(str)
        assert (found == truth).mean() > 0.85
        # Sure where it is right, less so where it is wrong.
        sure = done.obs["c2s_confidence"]
        assert sure[found == truth].mean() > sure[found != truth].mean()
        assert sure.between(1 / 5, 1).all()

    def test_writes_its_keys_and_changes_nothing_else(self, few, model):
        before = few.copy()
        assert c2s.tl.annotate(few, model, probabilities_key="p") is None
        assert set(few.obs.columns) - set(before.obs.columns) == {"c2s_cell_type", "c2s_confidence"}
        assert list(few.obs["c2s_cell_type"].cat.categories) == TYPES
        assert set(few.obsm) == {"p"}
        assert (dense(few) == dense(before)).all()
        assert few.var.equals(before.var)
        assert few.obs[before.obs.columns].equals(before.obs)
        assert set(few.uns) == {"citation", "c2s"}
        written = few.uns["c2s"]["annotate"]
        assert written["keys"] == {"obs": ["c2s_cell_type", "c2s_confidence"], "obsm": ["p"]}
        assert written["parameters"] == {
            "labels": TYPES, "views": 1, "top_k": 16, "seed": 0, "engine": "transformers",
            "organism": "Homo sapiens",
        }  # fmt: skip
        assert written["model"] == model.source
        assert written["versions"]["c2s-toolkit"] == c2s.__version__

    def test_probabilities_sum_to_1_and_decide(self, few, model):
        c2s.tl.annotate(few, model, probabilities_key="p")
        table = few.obsm["p"]
        assert list(table.columns) == TYPES
        assert list(table.index) == list(few.obs_names)
        np.testing.assert_allclose(table.sum(axis=1), 1)
        assert (table.idxmax(axis=1) == few.obs["c2s_cell_type"].astype(str)).all()
        np.testing.assert_array_equal(table.max(axis=1), few.obs["c2s_confidence"])

    def test_the_probability_is_that_of_writing_the_label_and_ending(self, few, model):
        """By the chain rule on full forward passes."""
        import torch

        cells = c2s.pp.cell_sentences(few, top_k=16, genes=list(model.vocabulary.words))
        prompt = (
            model.prompts.wording("cell_type")
            .prompts[0]
            .fill({"organism": "Homo sapiens", "num_genes": 16, "cell_sentence": cells.sentence(0)})
        )
        start = model.tokenizer.backend(prompt[0])["input_ids"]
        logs = []
        for label in TYPES:
            answer = [*model.tokenizer.backend(f" {label}")["input_ids"], model.tokenizer.eos_id]
            with torch.no_grad():
                steps = (
                    model.network(torch.tensor([start + answer])).logits[0].double().log_softmax(-1)
                )
            logs.append(sum(steps[len(start) - 1 + i, t].item() for i, t in enumerate(answer)))
        wanted = np.exp(logs) / np.exp(logs).sum()
        found = label_probabilities(few[:1].copy(), model, TYPES)
        np.testing.assert_allclose(found[0], wanted, rtol=1e-4, atol=1e-8)

    def test_the_batch_and_the_order_of_cells_decide_nothing(self, few, model):
        together = label_probabilities(few, model, TYPES)
        np.testing.assert_allclose(
            label_probabilities(few, model, TYPES, batch_size=3), together, atol=1e-5
        )
        turned = label_probabilities(few[::-1].copy(), model, TYPES)
        np.testing.assert_allclose(turned[::-1], together, atol=1e-5)

    def test_a_choice_of_labels_in_the_given_order(self, few, model):
        c2s.tl.annotate(few, model, labels=["Delta", "alpha"], probabilities_key="p")
        assert list(few.obs["c2s_cell_type"].cat.categories) == ["delta", "alpha"]
        assert list(few.obsm["p"].columns) == ["delta", "alpha"]
        everything = label_probabilities(few, model, TYPES)
        share = everything[:, 3] / (everything[:, 1] + everything[:, 3])
        np.testing.assert_allclose(few.obsm["p"]["delta"], share, rtol=1e-4, atol=1e-7)

    def test_views_are_averaged(self, few, model):
        one, two, three = (label_probabilities(few, model, TYPES, views=v) for v in (1, 2, 3))
        np.testing.assert_allclose(three.sum(1), 1)
        second = 2 * two - one  # what the second view added is itself a distribution
        assert second.min() > -1e-6
        np.testing.assert_allclose(second.sum(1), 1)
        assert not np.allclose(one, second)

    def test_seeds_repeat(self, few, model):
        first, again, other = (label_probabilities(few, model, TYPES, seed=s) for s in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)


class TestTables:
    def test_top_labels_are_the_most_probable_in_order(self, without_genes, model):
        with pytest.warns(C2SWarning):
            c2s.tl.annotate(without_genes, model, probabilities_key="p", top_n=3)
        top, p = without_genes.obsm["c2s_cell_type_top"], without_genes.obsm["p"]
        assert list(top.columns) == [
            f"{n}_{i}" for i in (1, 2, 3) for n in ("label", "probability")
        ]
        for cell in range(without_genes.n_obs):
            if cell in (3, 7):
                assert top.iloc[cell].isna().all()
                continue
            wanted = sorted(TYPES, key=lambda t: -p[t].iloc[cell])[:3]
            assert [top[f"label_{i}"].iloc[cell] for i in (1, 2, 3)] == wanted
            assert [top[f"probability_{i}"].iloc[cell] for i in (1, 2, 3)] == [
                p[t].iloc[cell] for t in wanted
            ]

    def test_no_more_labels_than_there_are(self, few, model, tmp_path):
        c2s.tl.annotate(few, model, labels=["alpha", "beta"], top_n=9)
        assert few.obsm["c2s_cell_type_top"].shape == (few.n_obs, 4)
        few.write_h5ad(tmp_path / "a.h5ad")
        again = ad.read_h5ad(tmp_path / "a.h5ad").obsm["c2s_cell_type_top"]
        assert (again["label_1"].astype(str) == few.obs["c2s_cell_type"].astype(str)).all()

    @pytest.mark.filterwarnings("error:Forward slashes:FutureWarning")
    def test_labels_with_a_slash(self, few, model, tmp_path):
        """Files take a slash in the name of a column for a folder, and another label may be the folder."""
        labels = ["T/NK cell", "T", "T|NK cell", "a/b/c", "alpha"]
        with pytest.warns(C2SWarning, match="never saw"):
            c2s.tl.annotate(few, model, labels, probabilities_key="p", top_n=2)
        wanted = label_probabilities(few, model, labels)
        few.write_h5ad(tmp_path / "a.h5ad")
        found = ad.read_h5ad(tmp_path / "a.h5ad")
        columns = ["T|NK cell|", "T", "T|NK cell", "a|b|c", "alpha"]
        assert list(found.obsm["p"].columns) == columns
        np.testing.assert_array_equal(found.obsm["p"], wanted)
        assert list(found.uns["c2s"]["annotate"]["parameters"]["labels"]) == labels
        assert list(found.obs["c2s_cell_type"].cat.categories) == labels
        assert set(found.obsm["c2s_cell_type_top"]["label_2"]) <= set(labels)

    def test_entropy(self, without_genes, model):
        with pytest.warns(C2SWarning):
            c2s.tl.annotate(without_genes, model, probabilities_key="p", entropy_key="h")
        p, h = without_genes.obsm["p"].to_numpy(), without_genes.obs["h"].to_numpy()
        known = np.delete(np.arange(len(p)), [3, 7])
        wanted = [-sum(x * np.log(x) for x in row if x > 0) for row in p[known]]
        np.testing.assert_allclose(h[known], wanted, atol=1e-12)
        assert np.isnan(h[[3, 7]]).all()
        assert h[known].max() <= np.log(5)
        c2s.tl.annotate(without_genes[known].copy(), model, labels=["beta"], entropy_key="h")

    def test_one_label_has_no_entropy(self, few, model):
        c2s.tl.annotate(few, model, labels=["beta"], entropy_key="h")
        assert (few.obs["h"] == 0).all()


class TestRecord:
    def test_names_what_decides_the_answers(self, few, model, tmp_path):
        """Also in a file, and the same from file to file."""

        class Mine(TransformersEngine):
            pass

        terms = [Term("X:0", "cell"), *(Term(f"X:{t}", t, ("X:0",)) for t in TYPES)]
        few.write_h5ad(tmp_path / "in.h5ad")
        panel = list(model.vocabulary.words[:60])
        options = {
            "labels": TYPES[1:], "top_n": 2, "min_confidence": 0.5, "unknown": "none", "organism": "homo_sapiens",
            "genes": panel, "gene_names": {"ENSG00000254647": "INS"}, "engine": Mine(model),
            "ontology": Ontology(terms),
        }  # fmt: skip
        c2s.tl.annotate_file(tmp_path / "in.h5ad", tmp_path / "out.h5ad", model, **options)
        c2s.tl.annotate(few, model, **options)
        written = few.uns["c2s"]["annotate"]["parameters"]
        digest = written.pop("ontology")
        assert re.fullmatch("ontology-[0-9a-f]{16}", digest)
        assert written == {
            "labels": TYPES[1:], "views": 1, "top_k": 16, "seed": 0, "min_confidence": 0.5, "unknown": "none",
            "top_n": 2, "engine": "Mine", "organism": "Homo sapiens", "genes": sorted(panel), "gene_names": "a table",
        }  # fmt: skip
        kept = ad.read_h5ad(tmp_path / "out.h5ad").uns["c2s"]["annotate"]["parameters"]
        assert kept.pop("ontology") == digest
        assert {
            k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in kept.items()
        } == written
        # A label that is another term is another ontology for these answers.
        options["ontology"] = Ontology(terms[:-1], {"ductal": "X:acinar"})
        c2s.tl.annotate(few, model, **options)
        assert few.uns["c2s"]["annotate"]["parameters"]["ontology"] != digest

    def test_names_all_organisms(self, few, gene_tokenizer, make_model):
        known = {"cell_type": TYPES, "organism": ["Homo sapiens", "Mus musculus"]}
        few.obs["organism"] = ["Mus musculus", *["Homo sapiens"] * (few.n_obs - 1)]
        c2s.tl.embed(few, make_model(gene_tokenizer, card={"conditions": known}), genes="no_mt")
        assert few.uns["c2s"]["embed"]["parameters"] == {
            "top_k": 16, "seed": 0, "organism": ["Homo sapiens", "Mus musculus"], "genes": "no_mt",
        }  # fmt: skip


class TestAbstention:
    def test_below_the_threshold_a_cell_is_unknown(self, few, model):
        done = c2s.tl.annotate(few, model, copy=True)
        limit = float(np.median(done.obs["c2s_confidence"]))
        c2s.tl.annotate(few, model, min_confidence=limit, unknown="not sure")
        sure = done.obs["c2s_confidence"] >= limit
        assert 0 < sure.sum() < len(sure)
        found = few.obs["c2s_cell_type"]
        assert list(found.cat.categories) == [*TYPES, "not sure"]
        assert (found[~sure] == "not sure").all()
        assert (found[sure].astype(str) == done.obs["c2s_cell_type"][sure].astype(str)).all()
        np.testing.assert_array_equal(few.obs["c2s_confidence"], done.obs["c2s_confidence"])
        assert few.uns["c2s"]["annotate"]["parameters"]["min_confidence"] == limit

    def test_a_cell_without_genes_is_missing_not_unknown(self, without_genes, model):
        with pytest.warns(C2SWarning):
            c2s.tl.annotate(without_genes, model, min_confidence=1.0)
        assert list(np.flatnonzero(without_genes.obs["c2s_cell_type"].isna())) == [3, 7]

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"min_confidence": 1.5}, "min_confidence=1.5"),
            ({"min_confidence": 0.5, "unknown": "beta"}, "'beta' is one of the labels"),
            ({"top_n": 0}, "top_n=0"),
            ({"temperature": 0}, "temperature=0"),
        ],
    )
    def test_what_cannot_work_is_refused_before_anything_is_written(
        self, few, model, options, said
    ):
        with pytest.raises(UsageError, match=said):
            c2s.tl.annotate(few, model, **options)
        assert "c2s_cell_type" not in few.obs


class TestTemperature:
    def test_divides_the_logarithms(self, few, model):
        plain = label_probabilities(few, model, TYPES)
        found = label_probabilities(few, model, TYPES, temperature=2.0)
        wanted = np.sqrt(plain)
        np.testing.assert_allclose(found, wanted / wanted.sum(1, keepdims=True), rtol=1e-6)

    def test_many_labels_at_once_hold_no_label_outside(self, few, model):
        c2s.tl.annotate(few, model, labels=["ductal", "acinar"], temperature=9, top_n=2)
        assert set(few.obs["c2s_cell_type"]) <= {"ductal", "acinar"}
        assert few.uns["c2s"]["annotate"]["parameters"]["temperature"] == 9


class TestObjects:
    def test_a_copy_leaves_the_original(self, few, model):
        before = few.copy()
        done = c2s.tl.annotate(few, model, copy=True)
        assert "c2s_cell_type" in done.obs
        assert few.obs.equals(before.obs)
        assert "c2s" not in few.uns

    @pytest.mark.filterwarnings("ignore:.*view:anndata.ImplicitModificationWarning")
    def test_a_view_leaves_its_parent(self, few, model):
        few.uns["c2s"] = {"other": 1}
        view = few[2:9]
        c2s.tl.annotate(view, model)
        c2s.tl.embed(view, model)
        assert view.obs["c2s_cell_type"].notna().all()
        assert "c2s_cell_type" not in few.obs
        assert few.uns["c2s"] == {"other": 1}
        assert set(view.uns["c2s"]) == {"other", "annotate", "embed"}

    def test_a_shared_record_is_not_changed(self, few, model):
        shared = {"preprocess": {"log_base": 10}}
        few.uns["c2s"] = shared
        c2s.tl.annotate(few, model)
        assert shared == {"preprocess": {"log_base": 10}}
        assert few.uns["c2s"]["preprocess"] == {"log_base": 10}

    def test_its_own_results_are_overwritten_after_a_file_too(self, few, model, tmp_path):
        c2s.tl.annotate(few, model, labels=["alpha", "beta"])
        few.write_h5ad(tmp_path / "a.h5ad")
        for adata in (few, ad.read_h5ad(tmp_path / "a.h5ad")):
            c2s.tl.annotate(adata, model)
            assert list(adata.obs["c2s_cell_type"].cat.categories) == TYPES

    @pytest.mark.parametrize(
        ("slot", "key"),
        [("obs", "c2s_cell_type"), ("obs", "c2s_confidence"), ("obsm", "p"), ("obs", "cell_type")],
    )
    def test_a_key_of_the_user_is_refused_before_any_work(self, few, model, slot, key):
        value = "mine" if slot == "obs" else np.ones((few.n_obs, 2))
        getattr(few, slot)[key] = value
        options = {"key_added": "cell_type"} if key == "cell_type" else {"probabilities_key": "p"}
        with pytest.raises(
            UsageError, match=rf"{slot}\['{key}'\] exists already and was not written by c2s"
        ):
            c2s.tl.annotate(few, model, **options)
        assert (np.asarray(getattr(few, slot)[key]) == value).all()
        assert "c2s" not in few.uns

    def test_a_key_of_another_verb_is_refused(self, few, model):
        c2s.tl.embed(few, model, key_added="shared")
        with pytest.raises(UsageError, match=r"obsm\['shared'\] exists already"):
            c2s.tl.annotate(few, model, probabilities_key="shared")

    def test_a_key_that_it_wrote_in_another_slot_is_not_its_own(self, few, model, tmp_path):
        c2s.tl.annotate(few, model)
        few.obsm["c2s_cell_type"] = np.ones((few.n_obs, 2))
        few.write_h5ad(tmp_path / "a.h5ad")
        for adata in (few, ad.read_h5ad(tmp_path / "a.h5ad")):
            with pytest.raises(UsageError, match=r"obsm\['c2s_cell_type'\] exists already"):
                c2s.tl.annotate(adata, model, key_added="a", probabilities_key="c2s_cell_type")
            assert (adata.obsm["c2s_cell_type"] == 1).all()

    def test_keys_of_older_records_are_known(self, few, model):
        """They are a list, which does not say in which slot."""
        c2s.tl.annotate(few, model, labels=["alpha", "beta"], probabilities_key="p")
        written = few.uns["c2s"]["annotate"]
        written["keys"] = np.array([key for keys in written["keys"].values() for key in keys])
        c2s.tl.annotate(few, model, probabilities_key="p")
        assert list(few.obsm["p"].columns) == TYPES

    def test_another_storage_gives_the_same(self, few, model):
        wanted = label_probabilities(few, model, TYPES)
        for X in (few.X.tocsc(), dense(few), sp.csr_matrix(few.X.astype(np.int64)), few.X * 0.5):
            other = ad.AnnData(X, obs=few.obs, var=few.var)
            np.testing.assert_allclose(label_probabilities(other, model, TYPES), wanted, atol=1e-6)

    def test_a_layer(self, few, model):
        wanted = label_probabilities(few, model, TYPES)
        few.layers["counts"] = few.X.copy()
        few.X = sp.csr_matrix(np.ones(few.shape, np.float32))
        np.testing.assert_allclose(
            label_probabilities(few, model, TYPES, layer="counts"), wanted, atol=1e-6
        )


class TestLabels:
    def test_one_never_seen_is_named(self, few, model):
        with pytest.warns(
            C2SWarning, match="never saw cell_type 'kidney'; it knows: acinar, alpha"
        ):
            c2s.tl.annotate(few, model, labels=["beta", "kidney"])
        assert list(few.obs["c2s_cell_type"].cat.categories) == ["beta", "kidney"]

    def test_strict_refuses_it_and_writes_nothing(self, few, model):
        with pytest.raises(UsageError, match="never saw cell_type 'kidney'"):
            c2s.tl.annotate(few, model, labels=["beta", "kidney"], strict=True)
        assert "c2s_cell_type" not in few.obs

    @pytest.mark.parametrize(
        ("labels", "said"),
        [
            (["beta", "Beta"], "listed more than once: beta"),
            (["kidney", "beta", "beta"], "listed more than once: beta"),
            ([], "the list is empty"),
        ],
    )
    def test_a_list_that_cannot_work(self, few, model, labels, said):
        """It is said before an unknown label is warned of."""
        with pytest.raises(UsageError, match=f"different texts, at least one; {said}"):
            c2s.tl.annotate(few, model, labels=labels)

    @pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
    def test_a_missing_label_is_refused(self, few, model, missing):
        with pytest.raises(InputError, match="labels: one is missing"):
            c2s.tl.annotate(few, model, labels=["beta", missing])

    def test_ids_without_symbols_get_the_advice_of_inspect(self, few, model):
        few.var = few.var[[]].set_axis([f"ENSG{i:011d}" for i in range(few.n_vars)])
        (problem,) = (p for p in c2s.inspect(few).problems if "Ensembl" in p.text)
        with pytest.raises(InputError, match="none of the genes is known to the model") as error:
            c2s.tl.annotate(few, model)
        assert problem.text in str(error.value)
        assert str(error.value).endswith(problem.mend)

    def test_a_text_is_no_list(self, few, model):
        with pytest.raises(UsageError, match="must be a list"):
            c2s.tl.annotate(few, model, labels="beta")

    @pytest.mark.parametrize(
        ("options", "said"), [({"views": 0}, "views=0"), ({"top_k": 0}, "top_k=0")]
    )
    def test_numbers_that_cannot_work(self, few, model, options, said):
        with pytest.raises(UsageError, match=f"{said} is not possible"):
            c2s.tl.annotate(few, model, **options)

    def test_a_model_for_something_else(self, few, gene_tokenizer, make_model):
        with pytest.raises(UsageError, match="not trained on annotation; its tasks: cond_cell"):
            c2s.tl.annotate(few, make_model(gene_tokenizer, card={"tasks": ["cond_cell"]}))

    def test_a_model_that_remembers_no_labels(self, few, gene_tokenizer, make_model):
        known = {"organism": ["Homo sapiens"]}
        with pytest.raises(UsageError, match="remembers no labels; give labels"):
            c2s.tl.annotate(few, make_model(gene_tokenizer, card={"conditions": known}))


class TestOrganism:
    def test_comes_from_the_argument_then_obs_then_the_model(self, few, model):
        with pytest.warns(
            C2SWarning, match="never saw organism 'Mus musculus'; it knows: Homo sapiens"
        ):
            mouse = label_probabilities(few, model, TYPES, organism="Mus musculus")
        human = label_probabilities(few, model, TYPES)
        assert not np.allclose(mouse, human)
        few.obs["organism"] = "homo_sapiens"
        np.testing.assert_array_equal(label_probabilities(few, model, TYPES), human)
        del few.obs["organism"]
        np.testing.assert_array_equal(label_probabilities(few, model, TYPES), human)
        few.obs["organism"] = ["Mus musculus"] * 10 + ["Homo sapiens"] * 10
        with pytest.warns(C2SWarning, match="never saw organism 'Mus musculus'"):
            mixed = label_probabilities(few, model, TYPES)
        np.testing.assert_allclose(mixed, np.r_[mouse[:10], human[10:]], atol=1e-5)

    def test_a_missing_value_is_not_the_name_of_one(self, few, model):
        few.obs["organism"] = pd.Categorical(["Homo sapiens"] * 19 + [None])
        with pytest.raises(
            InputError, match=rf"no value for 1 of 20 cells \(first: '{few.obs_names[19]}'\)"
        ):
            c2s.tl.annotate(few, model)
        c2s.tl.annotate(few, model, organism="Homo sapiens")

    def test_is_asked_for_where_it_cannot_be_known(self, few, gene_tokenizer, make_model):
        del few.obs["organism"]
        known = {"cell_type": TYPES, "organism": ["Homo sapiens", "Mus musculus"]}
        two = make_model(gene_tokenizer, card={"conditions": known})
        with pytest.raises(
            UsageError, match=r"give organism=… or a column obs\['organism'\] \(known: Homo"
        ):
            c2s.tl.annotate(few, two)


class TestGenes:
    @pytest.mark.filterwarnings("ignore:.*express none of the genes:c2s.common.errors.C2SWarning")
    def test_a_cell_without_genes_gets_neither_label_nor_probability(self, without_genes, model):
        c2s.tl.annotate(without_genes, model, probabilities_key="p", views=2)
        empty = np.zeros(20, bool)
        empty[[3, 7]] = True
        assert (without_genes.obs["c2s_cell_type"].isna() == empty).all()
        assert (without_genes.obs["c2s_confidence"].isna() == empty).all()
        assert (without_genes.obsm["p"].isna().all(axis=1) == empty).all()
        c2s.tl.embed(without_genes, model)
        assert (np.isnan(without_genes.obsm["X_c2s"]).all(axis=1) == empty).all()

    def test_and_a_warning_names_the_first(self, without_genes, model):
        name = without_genes.obs_names[3]
        with pytest.warns(
            C2SWarning, match=f"2 of 20 cells express none of the genes.*first: '{name}'"
        ):
            c2s.tl.annotate(without_genes, model)

    def test_missing_genes_are_warned_of(self, few, model):
        part = few[:, few.var_names.isin(model.vocabulary.words[:12])].copy()
        with pytest.warns(
            C2SWarning,
            match=rf"only 12 of the model's {len(model.vocabulary)} genes are in the data",
        ):
            c2s.tl.annotate(part, model, top_k=14)

    def test_no_shared_gene_is_refused(self, few, model):
        few.var_names = [f"X{i}" for i in range(few.n_vars)]
        with pytest.raises(
            InputError, match="none of the 20,125 genes of the data.*is known to the model"
        ):
            c2s.tl.annotate(few, model)

    def test_a_panel_and_a_rule(self, few, model):
        wanted = label_probabilities(few, model, TYPES)
        panel = [w for w in model.vocabulary.words if not w.startswith(("RPL", "RPS"))]
        part = few[:, few.var_names.isin(panel)].copy()
        found = label_probabilities(few, model, TYPES, genes=panel)
        np.testing.assert_allclose(found, label_probabilities(part, model, TYPES), atol=1e-6)
        assert not np.allclose(found, wanted)
        few.var["chosen"] = few.var_names.isin(panel)
        np.testing.assert_array_equal(label_probabilities(few, model, TYPES, genes="chosen"), found)
        with pytest.raises(
            InputError, match="none of the genes chosen by genes=.* is known to the model"
        ):
            c2s.tl.annotate(
                few, model, genes=[w for w in few.var_names if w not in model.vocabulary][:5]
            )

    def test_genes_of_a_panel_that_are_left_out_are_named_once(self, few, model, tmp_path):
        """In the model but not in the data, the other way round, in neither; a name that comes twice counts once."""
        few = few[:, few.var_names != model.vocabulary.words[0]].copy()
        other = next(w for w in few.var_names if w not in model.vocabulary)
        known = list(model.vocabulary.words[1:])
        panel = [model.vocabulary.words[0], other, "NOGENE", "nogene2", *known, known[0].lower()]
        wanted = label_probabilities(few, model, TYPES, genes=known)
        said = rf"^4 of the {len(known) + 5} genes of the panel are left out, .*: {panel[0]}, {other}, NOGENE, nogene2$"
        for genes in (panel, np.array(panel), pd.Index(panel)):
            with pytest.warns(C2SWarning, match=said) as told:
                found = label_probabilities(few, model, TYPES, genes=genes)
            assert len(told) == 1
            np.testing.assert_array_equal(found, wanted)
        few.write_h5ad(tmp_path / "in.h5ad")
        source, out = tmp_path / "in.h5ad", tmp_path / "out.h5ad"
        for verb in (
            lambda: c2s.tl.annotate_file(source, out, model, chunk_size=7, genes=panel),
            lambda: c2s.tl.embed(few, model, genes=panel),
            lambda: c2s.tl.explain(few[:1].copy(), model, genes=panel),
        ):
            with pytest.warns(C2SWarning, match="NOGENE") as told:
                verb()
            assert len(told) == 1
        with pytest.raises(InputError, match="none of the 1 genes asked for is in the data"):
            c2s.tl.annotate(few, model, genes=["NOGENE"])


class TestGeneNames:
    """The same cells under other names of their genes get the same answers."""

    def renamed(self, few, names, **var):
        return ad.AnnData(few.X, obs=few.obs, var=pd.DataFrame(var, index=list(names)))

    def same(self, few, model, other, **options):
        wanted = label_probabilities(few, model, TYPES)
        np.testing.assert_allclose(
            label_probabilities(other, model, TYPES, **options), wanted, atol=1e-6
        )

    def test_ensembl_ids_with_feature_name(self, few, model):
        ids = [f"ENSG{i:011d}.{1 + i % 3}" for i in range(few.n_vars)]
        self.same(few, model, self.renamed(few, ids, feature_name=list(few.var_names)))
        with pytest.raises(InputError, match="is known to the model"):
            c2s.tl.annotate(self.renamed(few, ids), model)

    def test_ensembl_ids_with_a_table(self, few, model):
        ids = [f"ENSG{i:011d}" for i in range(few.n_vars)]
        table = dict(zip(ids, few.var_names, strict=True))
        self.same(few, model, self.renamed(few, ids), gene_names=table)

    def test_mouse_case(self, few, model):
        self.same(few, model, self.renamed(few, [name.capitalize() for name in few.var_names]))

    def test_another_order_of_genes(self, few, model):
        order = np.random.default_rng(0).permutation(few.n_vars)
        self.same(few, model, few[:, order].copy())

    @pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
    def test_repeated_names(self, few, model):
        """A second column named INS is another gene (INS_2), which the model does not know."""
        names = list(few.var_names)
        for known in ("INS", "GCG", "SST"):
            twin = next(
                i
                for i, n in enumerate(names)
                if n not in model.vocabulary and n not in ("INS", "GCG", "SST")
            )
            names[twin] = known
        other = self.renamed(few, names)
        assert not other.var_names.is_unique
        first = {n: names.index(n) for n in ("INS", "GCG", "SST")}
        keep = [i for i, n in enumerate(names) if first.get(n, i) == i]
        np.testing.assert_allclose(
            label_probabilities(other, model, TYPES),
            label_probabilities(self.renamed(few[:, keep], [names[i] for i in keep]), model, TYPES),
            atol=1e-6,
        )
