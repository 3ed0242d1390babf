"""Samples of several cells: their tissue and the types of their cells, by exact probabilities of known labels."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

import c2s
from c2s.analysis.samples import draw_samples
from c2s.common.errors import C2SWarning, InputError, UsageError

TYPES = ["acinar", "alpha", "beta", "delta", "ductal"]


@pytest.fixture
def few(regions):
    """Three cells of each type."""
    return regions[np.sort(np.concatenate([np.arange(0, 150, 30) + i for i in range(3)]))].copy()


def log_probability(model, prompt, answer, end=True):
    """log p of a text behind another, from one plain pass over both."""
    import torch

    start = model.tokenizer.backend(prompt)["input_ids"]
    ids = [*start, *model.tokenizer.backend(answer)["input_ids"]]
    ids += [model.tokenizer.eos_id] if end else []
    with torch.no_grad():
        steps = model.network(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(steps[at - 1, ids[at]].item() for at in range(len(start), len(ids)))


def softmax(logs):
    p = np.exp(np.array(logs) - max(logs))
    return p / p.sum()


def prompt_text(model, task, adata, rows):
    """The first wording with the sentences of these cells, as many genes each as the poorest has."""
    cells = c2s.pp.cell_sentences(adata, top_k=10, genes=list(model.vocabulary.words))
    least = min(len(cells.words(row)) for row in rows)
    lines = [f"Cell {i + 1}: {' '.join(cells.words(r)[:least])}" for i, r in enumerate(rows)]
    return "".join(
        model.prompts.wording(task).prompts[0].fill(
            {"organism": "Homo sapiens", "num_genes": least, "num_cells": len(rows), "cells": "\n".join(lines)}
        )
    )  # fmt: skip


class TestTissue:
    def test_names_the_tissue_that_samples_are_from(self, regions, sample_model):
        c2s.tl.annotate_samples(regions, sample_model, groupby="region", cells_per_sample=3)
        assert (regions.obs["c2s_tissue"].astype(str) == regions.obs["region"]).mean() > 0.9
        assert regions.obs["c2s_tissue_confidence"].between(0.5, 1).all()
        per_sample = regions.obs.groupby("c2s_sample")
        assert per_sample.size().max() == 3
        assert (per_sample["region"].nunique() == 1).all()
        assert (per_sample["c2s_tissue"].nunique() == 1).all()
        written = regions.uns["c2s"]["annotate_samples"]
        assert written["parameters"]["groupby"] == ["region"]
        assert written["keys"] == {"obs": ["c2s_sample", "c2s_tissue", "c2s_tissue_confidence"]}

    def test_the_probability_is_that_of_writing_the_tissue_and_ending(self, few, sample_model):
        few = few[:4].copy()
        c2s.tl.annotate_samples(
            few, sample_model, cells_per_sample=2, probabilities_key="p", sample_key="s"
        )
        assert few.obs["s"].tolist() == [0, 0, 1, 1]
        for sample in (0, 1):
            rows = np.flatnonzero(few.obs["s"] == sample)
            prompt = prompt_text(sample_model, "tissue", few, rows)
            labels = list(few.obsm["p"].columns)
            assert labels == ["islet", "exocrine pancreas"]
            wanted = softmax([log_probability(sample_model, prompt, f" {x}") for x in labels])
            for row in rows:
                np.testing.assert_allclose(few.obsm["p"].iloc[row], wanted, rtol=1e-4, atol=1e-9)


class TestTypes:
    def test_names_the_type_of_each_cell(self, regions, sample_model):
        regions.obs["all"] = "x"
        c2s.tl.annotate_samples(
            regions, sample_model, "sample_cell_types", groupby="all", cells_per_sample=3
        )
        found = regions.obs["c2s_sample_cell_type"]
        right = found.astype(str) == regions.obs["cell_type"].astype(str)
        assert right.mean() > 0.35  # of five types, after seconds of training
        assert regions.obs["c2s_sample_cell_type_confidence"].between(0.2, 1).all()
        assert list(found.cat.categories) == TYPES

    def test_each_label_is_the_most_probable_behind_those_before_it(self, few, sample_model):
        few = few[[0, 6, 9, 12, 3]].copy()
        c2s.tl.annotate_samples(
            few, sample_model, "sample_cell_types", cells_per_sample=3, probabilities_key="p"
        )
        assert few.obs["c2s_sample"].tolist() == [0, 0, 0, 1, 1]
        for sample in (0, 1):
            rows = np.flatnonzero(few.obs["c2s_sample"] == sample)
            prompt = prompt_text(sample_model, "sample_cell_types", few, rows)
            so_far = " Cell 1:"
            for place, row in enumerate(rows):
                last = place == len(rows) - 1
                behind = "" if last else f"\nCell {place + 2}:"
                logs = [
                    log_probability(sample_model, prompt, f"{so_far} {x}{behind}", end=last)
                    for x in TYPES
                ]
                np.testing.assert_allclose(
                    few.obsm["p"].iloc[row], softmax(logs), rtol=1e-3, atol=1e-8
                )
                best = TYPES[int(np.argmax(logs))]
                assert few.obs["c2s_sample_cell_type"].iloc[row] == best
                so_far += f" {best}{behind}"

    def test_a_choice_of_labels_and_only_one(self, few, sample_model):
        c2s.tl.annotate_samples(few, sample_model, "sample_cell_types", ["beta", "Delta"])
        assert set(few.obs["c2s_sample_cell_type"]) <= {"beta", "delta"}
        c2s.tl.annotate_samples(few, sample_model, "sample_cell_types", ["beta"])
        assert (few.obs["c2s_sample_cell_type"] == "beta").all()
        assert (few.obs["c2s_sample_cell_type_confidence"] == 1).all()

    def test_a_label_that_begins_another_is_not_taken_for_it(self, few, sample_model):
        """What follows a label is part of what is scored: as it is, "beta" is not the beginning of "beta cell"."""
        with pytest.warns(C2SWarning, match="never saw cell_type 'beta cell'"):
            c2s.tl.annotate_samples(
                few, sample_model, "sample_cell_types", ["beta", "beta cell"], cells_per_sample=3
            )
        assert (few.obs["c2s_sample_cell_type"] == "beta").all()


@pytest.mark.parametrize("what", ["tissue", "sample_cell_types"])
class TestBoth:
    def run(self, adata, model, what, **options):
        options = {"cells_per_sample": 3, "probabilities_key": "p", **options}
        done = c2s.tl.annotate_samples(adata, model, what, copy=True, **options)
        return done.obsm["p"].to_numpy()

    def test_batches_decide_nothing(self, few, sample_model, what):
        together = self.run(few, sample_model, what)
        apart = self.run(few, sample_model, what, batch_size=1)
        np.testing.assert_allclose(apart, together, atol=1e-5)

    @pytest.mark.filterwarnings("ignore:.*express none of the genes:c2s.common.errors.C2SWarning")
    def test_a_cell_without_genes_is_in_no_sample(self, few, sample_model, what):
        keep = np.ones(few.n_obs)
        keep[[1, 4]] = 0
        few.X = sp.csr_matrix(sp.diags(keep, dtype=few.X.dtype) @ few.X)
        c2s.tl.annotate_samples(few, sample_model, what, key_added="a", cells_per_sample=5)
        assert list(np.flatnonzero(few.obs["a"].isna())) == [1, 4]
        assert list(np.flatnonzero(few.obs["a_confidence"].isna())) == [1, 4]
        assert few.obs["c2s_sample"].tolist() == [0, -1, 0, 0, -1, 0, 0, *[1] * 4, *[2] * 4]

    def test_fewer_genes_where_the_context_is_short(self, few, sample_model, what, monkeypatch):
        """The engine would refuse a prompt and an answer that are longer than the context."""
        config = sample_model.network.config
        whole = self.run(few, sample_model, what)
        monkeypatch.setattr(config, "max_position_embeddings", 60)
        with pytest.warns(
            C2SWarning, match=r"5 of 5 samples are shown with fewer genes.*60 tokens"
        ):
            cut = self.run(few, sample_model, what)
        assert np.isfinite(cut).all()
        assert not np.allclose(cut, whole)
        monkeypatch.setattr(config, "max_position_embeddings", 30)
        with pytest.raises(UsageError, match="does not fit into the model's context even with one"):
            self.run(few, sample_model, what)

    def test_what_cannot_work(self, few, model, sample_model, what):
        with pytest.raises(UsageError, match=f"was not trained on '{what}'; its tasks: cell_type"):
            c2s.tl.annotate_samples(few, model, what)
        with pytest.raises(UsageError, match="no column 'patient' to group by; it has: cell_type"):
            c2s.tl.annotate_samples(few, sample_model, what, groupby="patient")
        with pytest.raises(UsageError, match="cells_per_sample=0"):
            c2s.tl.annotate_samples(few, sample_model, what, cells_per_sample=0)
        few.obs["c2s_sample"] = "mine"
        with pytest.raises(UsageError, match="c2s_sample.*was not written by c2s"):
            c2s.tl.annotate_samples(few, sample_model, what)


def test_both_questions_of_the_same_cells(few, sample_model):
    c2s.tl.annotate_samples(few, sample_model, "tissue")
    c2s.tl.annotate_samples(few, sample_model, "sample_cell_types")
    assert {"c2s_tissue", "c2s_sample_cell_type"} <= set(few.obs)
    assert few.uns["c2s"]["annotate_samples"]["parameters"]["what"] == "sample_cell_types"


class TestGroups:
    def test_cells_without_a_group_get_no_answer(self, few, sample_model):
        few.obs["donor"] = ["a", "b", None] * 5
        with pytest.warns(C2SWarning, match="5 of 15 cells have no group"):
            c2s.tl.annotate_samples(few, sample_model, groupby=["donor", "region"])
        assert list(few.obs["c2s_tissue"].isna()) == [False, False, True] * 5
        few.obs["nothing"] = None
        with pytest.raises(InputError, match=r"no cell has a value in obs\['nothing'\]"):
            c2s.tl.annotate_samples(few, sample_model, groupby="nothing")

    def test_an_unknown_question(self, few, sample_model):
        with pytest.raises(UsageError, match="what='organ' is unknown; use 'tissue' or"):
            c2s.tl.annotate_samples(few, sample_model, "organ")

    @given(st.lists(st.integers(-1, 3), max_size=30), st.integers(1, 6), st.booleans(), st.data())
    def test_every_usable_cell_is_in_one_sample_of_its_group(self, groups, size, shuffle, data):
        groups = np.array(groups, dtype=np.int64)
        n = len(groups)
        usable = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=bool)
        samples = draw_samples(groups, usable, size, shuffle, 0)
        drawn = np.concatenate([*samples, np.empty(0, int)])
        assert sorted(drawn) == np.flatnonzero(usable & (groups >= 0)).tolist()
        for sample in samples:
            assert 1 <= len(sample) <= size
            assert len(set(groups[sample])) == 1
        for group in set(groups[groups >= 0].tolist()):
            sizes = [len(s) for s in samples if groups[s[0]] == group]
            assert not sizes or max(sizes) - min(sizes) <= 1
            if not shuffle:
                assert (np.diff([r for s in samples if groups[s[0]] == group for r in s]) > 0).all()

    def test_the_seed_draws(self):
        groups, usable = np.zeros(20, int), np.ones(20, bool)
        one, again, other = (draw_samples(groups, usable, 5, True, s) for s in (0, 0, 1))
        assert np.array_equal(one, again)
        assert not np.array_equal(one, other)
