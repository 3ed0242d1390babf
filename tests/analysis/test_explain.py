"""Explanations against brute force, finite differences and hand-made tables."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import c2s
from c2s.analysis.cells import cells_for_model
from c2s.analysis.deletion import _Cell, _taken
from c2s.common.errors import C2SWarning, InputError, UsageError

TYPES = ["acinar", "alpha", "beta", "delta", "ductal"]


@pytest.fixture
def few(cut):
    """Three cells, each of another type."""
    return cut[[0, 40, 75]].copy()


@pytest.fixture(scope="module")
def text_model(make_model, make_tokenizer, cut_genes):
    """Return a function that makes a model of random weights that writes genes in several tokens."""

    def make(architecture="gpt_neox"):
        tokenizer = make_tokenizer(cut_genes, "text")
        assert np.diff(tokenizer.gene_tokens.indptr).mean() > 2
        return make_model(tokenizer, architecture)

    return make


@pytest.fixture(scope="module")
def explained(cut, model):
    """Leave-one-out of six cells of each type by the trained model."""
    return c2s.tl.explain(cut[::5].copy(), model)


def prompt_text(model, words, n_genes):
    """The first wording, written by hand."""
    template = model.prompts.wording("cell_type").prompts[0].text
    return template.format(
        num_genes=n_genes, organism="Homo sapiens", cell_sentence=" ".join(words)
    )


def log_probabilities(model, text, labels=TYPES, temperature=1.0):
    """log p of each label behind a text, normalised over the labels, by full passes one at a time."""
    start = model.tokenizer.backend(text)["input_ids"]
    found = []
    for label in labels:
        answer = [*model.tokenizer.backend(f" {label}")["input_ids"], model.tokenizer.eos_id]
        with torch.no_grad():
            steps = model.network(torch.tensor([start + answer])).logits[0].double().log_softmax(-1)
        found.append(sum(steps[len(start) - 1 + i, t].item() for i, t in enumerate(answer)))
    scaled = np.array(found) / temperature
    return scaled - np.logaddexp.reduce(scaled)


def brute_force(model, words, temperature=1.0):
    """log p of each label with all genes, minus that of each edited sentence. (n_genes, n_labels)."""
    n = len(words)
    whole = log_probabilities(model, prompt_text(model, words, n), temperature=temperature)
    without = [
        log_probabilities(
            model, prompt_text(model, words[:i] + words[i + 1 :], n), temperature=temperature
        )
        for i in range(n)
    ]
    return whole, whole - np.array(without)


class TestLeaveOneOut:
    @pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "gemma2"])
    def test_is_a_loop_over_edited_sentences_text_mode(self, few, text_model, architecture):
        model = text_model(architecture)
        self.check(few[:1].copy(), model)

    def test_is_a_loop_over_edited_sentences_genes_mode(self, few, model):
        self.check(few, model)

    def check(self, adata, model):
        table = c2s.tl.explain(adata, model)
        cells = cells_for_model(adata, model)
        for row, name in enumerate(adata.obs_names):
            part = table[table["cell"] == name]
            words = cells.words(row)
            assert list(part["gene"]) == words
            assert list(part["rank"]) == list(range(1, len(words) + 1))
            whole, wanted = brute_force(model, words)
            assert set(part["label"]) == {TYPES[whole.argmax()]}
            np.testing.assert_allclose(part["value"], wanted[:, whole.argmax()], atol=2e-4)
            assert np.ptp(part["value"]) > 0.01  # not so even that anything would pass

    def test_the_batch_decides_nothing(self, few, text_model):
        model = text_model()
        table = c2s.tl.explain(few, model)
        for size in (1, 5, 17):
            other = c2s.tl.explain(few, model, batch_size=size)
            np.testing.assert_allclose(other["value"], table["value"], atol=1e-4)

    def test_is_the_probability_that_annotate_gives(self, few, model):
        """A gene that the panel leaves out is one that is taken out of the sentence."""
        words = cells_for_model(few, model).words(0)
        table = c2s.tl.explain(few[:1].copy(), model, "delta", top_k=16)
        whole = c2s.tl.annotate(few, model, probabilities_key="p", copy=True).obsm["p"]["delta"]
        edited = log_probabilities(model, prompt_text(model, words[1:], 16))[3]
        np.testing.assert_allclose(table["value"][0], np.log(whole.iloc[0]) - edited, atol=1e-4)


class TestGradient:
    @pytest.mark.parametrize("mode", ["genes", "text"])
    @pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "gemma2"])
    def test_is_the_slope_when_a_gene_is_stretched(
        self, few, make_model, make_tokenizer, cut_genes, architecture, mode
    ):
        """By finite differences of plain full passes in double precision; tokens found by their text."""
        model = make_model(make_tokenizer(cut_genes, mode), architecture)
        model.network.double()
        table = c2s.tl.explain(few, model, "beta", method="gradient", top_k=6, temperature=1.7)
        cells = cells_for_model(few, model, top_k=6)
        for row, name in enumerate(few.obs_names[:2]):
            words = cells.words(row)
            found = table[table["cell"] == name]["value"].to_numpy()
            wanted = [stretched(model, words, i, "beta", 1.7) for i in range(len(words))]
            largest = np.abs(found).max()
            assert largest > 0.005
            np.testing.assert_allclose(found, wanted, atol=0.005 * largest)

    @pytest.mark.parametrize("mode", ["genes", "text"])
    @pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
    def test_integrated_gradients_sum_to_what_the_genes_add(
        self, few, make_model, make_tokenizer, cut_genes, architecture, mode
    ):
        """log p of the cell, minus log p with an average gene token in every place, by plain full passes."""
        model = make_model(make_tokenizer(cut_genes, mode), architecture, spread=0.1)
        table = c2s.tl.explain(few, model, "beta", method="integrated_gradient", steps=200, top_k=6)
        cells = cells_for_model(few, model, top_k=6)
        tokens = sorted({t for g in range(len(cut_genes)) for t in model.tokenizer.gene_pieces(g)})
        average = model.network.get_input_embeddings().weight.detach()[tokens].mean(0)
        for row, name in enumerate(few.obs_names[:2]):
            words = cells.words(row)
            with_genes = log_p_of_embeddings(model, words, "beta", lambda x, inside: x)

            def put_average(embedded, inside):
                embedded[inside] = average
                return embedded

            without = log_p_of_embeddings(model, words, "beta", put_average)
            found = table[table["cell"] == name]["value"]
            assert abs(with_genes - without) > 1e-3
            np.testing.assert_allclose(found.sum(), with_genes - without, rtol=0.01, atol=2e-5)

    def test_takes_no_gradient_of_a_parameter_and_leaves_them_trainable(self, few, model):
        c2s.tl.explain(few, model, method="gradient")
        assert all(p.requires_grad and p.grad is None for p in model.network.parameters())

    def test_the_batch_and_long_lists_of_labels_decide_nothing(self, few, text_model, monkeypatch):
        model = text_model("llama")
        table = c2s.tl.explain(few, model, method="gradient")
        other = c2s.tl.explain(few[::-1].copy(), model, method="gradient", batch_size=1)
        together = table.merge(other, on=["cell", "label", "rank", "gene"])
        assert len(together) == len(table)
        np.testing.assert_allclose(together["value_x"], together["value_y"], atol=1e-4)
        monkeypatch.setattr("c2s.decoding.engine._TREE_ROWS", 2)
        trees = c2s.tl.explain(few, model, method="gradient")
        np.testing.assert_allclose(trees["value"], table["value"], atol=1e-4)

    def test_explains_what_annotate_answers(self, cut, model):
        part = cut[::10].copy()
        answers = c2s.tl.annotate(part, model, copy=True).obs["c2s_cell_type"].astype(str)
        for method in ("gradient", "integrated_gradient", "leave_one_out"):
            table = c2s.tl.explain(part, model, method=method)
            assert dict(zip(table["cell"], table["label"], strict=True)) == answers.to_dict()
            assert set(table["method"]) == {method}


def log_p_of_embeddings(model, words, label, change, which=None, temperature=1.0):
    """log p(label) by plain full passes after `change(embeddings, whether of the gene tokens)`.

    `which` says of which gene; None of all. Tokens are found by where they stand in the text.
    """
    text = prompt_text(model, words, len(words))
    encoded = model.tokenizer.backend(text, return_offsets_mapping=True)
    # The space in front is part of a gene.
    begin = text.index(" " + " ".join(words))
    end = begin + len("".join(f" {word}" for word in words))
    columns = [model.vocabulary.column(word) for word in words]
    if which is not None:
        begin += len("".join(f" {word}" for word in words[:which]))
        end = begin + 1 + len(words[which])
        columns = [columns[which]]
    inside = torch.tensor([b < end and e > begin for b, e in encoded["offset_mapping"]])
    assert inside.sum() == sum(len(model.tokenizer.gene_pieces(column)) for column in columns)
    scores = []
    for candidate in TYPES:
        answer = [*model.tokenizer.backend(f" {candidate}")["input_ids"], model.tokenizer.eos_id]
        ids = torch.tensor([encoded["input_ids"] + answer])
        n = len(inside)
        with torch.no_grad():
            embedded = model.network.get_input_embeddings()(ids)
            embedded[0, :n] = change(embedded[0, :n].clone(), inside)
            logits = model.network(inputs_embeds=embedded).logits[0].double().log_softmax(-1)
        scores.append(sum(logits[n - 1 + i, a].item() for i, a in enumerate(answer)))
    scaled = np.array(scores) / temperature
    return (scaled - np.logaddexp.reduce(scaled))[TYPES.index(label)]


def stretched(model, words, which, label, temperature, step=0.03):
    """The numeric derivative of log p(label) when one gene's embeddings are multiplied by 1 + t, at t = 0.

    By five points (four without the middle), whose error is of the order of step⁴: norms of Llama are in single
    precision whatever the network, so the step cannot be small.
    """

    def log_p(t):
        def stretch(embedded, inside):
            embedded[inside] *= 1 + t
            return embedded

        return log_p_of_embeddings(model, words, label, stretch, which, temperature)

    near, far = (log_p(t) - log_p(-t) for t in (step, 2 * step))
    return (8 * near - far) / (12 * step)


class TestOptions:
    def test_a_label_for_each_cell(self, few, model):
        asked = ["Delta", "beta", "acinar"]
        for method in ("gradient", "leave_one_out"):
            together = c2s.tl.explain(few, model, asked, method=method)
            for row, label in enumerate(asked):
                alone = c2s.tl.explain(few[[row]].copy(), model, label, method=method)
                part = together[together["cell"] == few.obs_names[row]]
                assert set(part["label"]) == {label.lower()}
                np.testing.assert_allclose(part["value"], alone["value"], atol=1e-4)

    def test_values_of_two_candidates_are_opposite_in_odds(self, few, model):
        """log p(a) − log p(b) is the difference of scores, so with other candidates it is the same."""
        two = [c2s.tl.explain(few, model, x, labels=["alpha", "beta"]) for x in ("alpha", "beta")]
        five = [c2s.tl.explain(few, model, x) for x in ("alpha", "beta")]
        odds = [a["value"] - b["value"] for a, b in (two, five)]
        np.testing.assert_allclose(odds[0], odds[1], atol=1e-4)

    def test_so_many_cells_drawn_by_the_seed(self, cut, model):
        def names(**options):
            return set(c2s.tl.explain(cut, model, method="gradient", n_cells=9, **options)["cell"])

        assert len(names()) == 9
        assert names() == names()
        assert names() != names(seed=1)

    def test_a_cell_without_genes_has_no_rows(self, few, model):
        few.X[1] = 0
        few.X.eliminate_zeros()
        with pytest.warns(C2SWarning):
            table = c2s.tl.explain(few, model)
        assert list(dict.fromkeys(table["cell"])) == [few.obs_names[0], few.obs_names[2]]

    def test_backed(self, few, model, tmp_path):
        few.write_h5ad(tmp_path / "few.h5ad")
        backed = ad.read_h5ad(tmp_path / "few.h5ad", backed="r")
        for n_cells in (None, 2):
            found, wanted = (
                c2s.tl.explain(data, model, method="gradient", n_cells=n_cells)
                for data in (backed, few)
            )
            pd.testing.assert_frame_equal(found, wanted)

    def test_nothing_is_written(self, few, model):
        before = few.copy()
        c2s.tl.explain(few, model)
        assert set(few.uns) == set(before.uns)
        assert list(few.obs.columns) == list(before.obs.columns)
        assert (few.X != before.X).nnz == 0

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"label": "neuron"}, "'neuron' is none of the candidates"),
            ({"label": ["beta"]}, "1 entries for 3 cells"),
            ({"labels": ["beta"]}, "at least two labels"),
            ({"method": "magic"}, "leave_one_out, gradient"),
            ({"n_cells": 0}, "n_cells=0"),
            ({"temperature": 0}, "temperature=0"),
            ({"steps": 0}, "steps=0"),
        ],
    )
    def test_wrong_use_is_refused(self, few, model, options, said):
        with pytest.raises(UsageError, match=said):
            c2s.tl.explain(few, model, **options)


def made_up(values, label="beta"):
    """An explanation with hand-made values: {cell: {gene: value}}."""
    rows = [
        (cell, label, rank, gene, value, "leave_one_out")
        for cell, genes in values.items()
        for rank, (gene, value) in enumerate(genes.items(), start=1)
    ]
    return pd.DataFrame(rows, columns=["cell", "label", "rank", "gene", "value", "method"])


class TestTopGenes:
    def test_by_hand(self):
        """A has 3 and 1, B is in one of two cells; the standard error of (3, 1) is 1, of (4, 0) is 2."""
        table = made_up({"c1": {"A": 3.0, "B": 4.0, "C": -1.0}, "c2": {"C": -2.0, "A": 1.0}})
        found = c2s.tl.top_genes(table, 3)
        assert list(found.columns) == ["label", "gene", "value", "error", "cells"]
        assert found.iloc[:, 1:].to_numpy().tolist() == [
            ["A", 2.0, 1.0, 2],
            ["B", 2.0, 2.0, 1],
        ], "C spoke against the label"
        assert list(c2s.tl.top_genes(table, 1)["gene"]) == ["A"]

    def test_each_label_alone(self):
        table = pd.concat([made_up({"c1": {"A": 1.0}}), made_up({"c2": {"B": 2.0}}, "alpha")])
        found = c2s.tl.top_genes(table)
        assert found[["label", "gene", "value"]].to_numpy().tolist() == [
            ["alpha", "B", 2.0],
            ["beta", "A", 1.0],
        ]
        assert found["error"].isna().all()

    def test_what_cannot_be_is_refused(self):
        table = made_up({"c1": {"A": 1.0}})
        with pytest.raises(UsageError, match="n=0"):
            c2s.tl.top_genes(table, 0)
        with pytest.raises(UsageError, match="mixes gradient and leave_one_out"):
            c2s.tl.top_genes(pd.concat([table, table.assign(method="gradient")]))
        with pytest.raises(InputError, match="no column 'value'"):
            c2s.tl.top_genes(table.drop(columns="value"))
        with pytest.raises(InputError, match="no rows"):
            c2s.tl.top_genes(table[:0])


class TestDeletion:
    def test_is_what_edited_sentences_give(self, few, model):
        """Probabilities with and without the named genes by plain passes; others by taking the same draws."""
        table = c2s.tl.explain(few, model)
        found = c2s.tl.deletion_test(few, model, table, n_genes=3, n_random=2)
        assert (found.n_genes, found.n_random) == (3, 2)
        for row in found.cells.itertuples():
            part = table[table["cell"] == row.cell]
            words, which = list(part["gene"]), TYPES.index(row.label)
            named = part.nlargest(3, "value")
            kept = [word for word in words if word not in set(named["gene"])]
            whole = log_probabilities(model, prompt_text(model, words, 16))[which]
            without = log_probabilities(model, prompt_text(model, kept, 16))[which]
            np.testing.assert_allclose([row.log_p, row.log_p_named], [whole, without], atol=1e-4)
            np.testing.assert_allclose(row.probability_named, np.exp(without), atol=1e-4)
            assert row.rank_named == pytest.approx(named["rank"].mean())
            cell = _Cell(row.cell, 0, np.arange(16), part["value"].to_numpy(), which)
            draws = _taken(cell, 3, 2, seed=0)[1:]
            edited = [
                prompt_text(model, [w for i, w in enumerate(words) if i not in draw], 16)
                for draw in draws
            ]
            others = [log_probabilities(model, text)[which] for text in edited]
            np.testing.assert_allclose(row.log_p_random, np.mean(others), atol=1e-4)
            np.testing.assert_allclose(row.probability_random, np.exp(others).mean(), atol=1e-4)
            assert row.rank_random == pytest.approx(np.mean(draws) + 1)

    def test_summary_is_of_the_cells(self, cut, model, explained):
        found = c2s.tl.deletion_test(cut, model, explained, n_genes=3)
        for name in ("probability", "log_p"):
            line, cells = found.summary.loc[name], found.cells
            assert line["all_genes"] == pytest.approx(cells[name].mean())
            assert line["without_named"] == pytest.approx(cells[f"{name}_named"].mean())
            gap = cells[f"{name}_random"] - cells[f"{name}_named"]
            assert line["difference"] == pytest.approx(gap.mean())
            half = 1.96 * gap.std() / np.sqrt(len(gap))  # normal theory beside the bootstrap
            assert line["low"] == pytest.approx(gap.mean() - half, abs=0.4 * half)
            assert line["high"] == pytest.approx(gap.mean() + half, abs=0.4 * half)

    def test_one_cell_has_no_interval(self, few, model):
        one = few[:1].copy()
        found = c2s.tl.deletion_test(one, model, c2s.tl.explain(one, model), n_genes=3).summary
        assert found[["low", "high"]].isna().all(axis=None)
        assert found.drop(columns=["low", "high"]).notna().all(axis=None)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.floats(-5, 5), min_size=8, max_size=60), st.integers(0, 3))
    def test_others_are_other_genes_of_near_ranks(self, values, seed):
        cell = _Cell("c", 0, np.arange(len(values)), np.array(values), 0)
        named, *draws = _taken(cell, 4, 3, seed)
        assert {values[i] for i in named} <= set(sorted(values)[-4:])
        for draw in draws:
            assert len(set(draw.tolist()) | set(named.tolist())) == 8
            # At most seven places next to a gene are named or taken, and six more are offered.
            assert np.abs(np.sort(draw) - np.sort(named)).max() <= 13

    def test_random_values_name_nothing(self, cut, model, explained):
        """With genes named by chance, taking them out is taking out any: the interval holds 0."""
        rng = np.random.default_rng(0)
        table = explained.assign(value=rng.random(len(explained)))
        line = c2s.tl.deletion_test(cut, model, table, n_genes=3).summary.loc["log_p"]
        assert line["low"] < 0 < line["high"]

    @pytest.mark.parametrize("method", ["leave_one_out", "gradient", "integrated_gradient"])
    def test_named_genes_matter_more_than_others_of_their_ranks(
        self, cut, model, method, explained
    ):
        table = explained
        if method != "leave_one_out":
            table = c2s.tl.explain(cut[::5].copy(), model, method=method)
        found = c2s.tl.deletion_test(cut, model, table, n_genes=3)
        assert (found.summary["low"] > 0).all()
        # More than the three highest genes, too: it is not the rank that makes the difference.
        highest = c2s.tl.deletion_test(cut, model, table.assign(value=-table["rank"]), n_genes=3)
        for name in ("probability", "log_p"):
            named, by_rank = (x.summary.loc[name, "without_named"] for x in (found, highest))
            assert named < by_rank

    def test_what_is_not_an_explanation_of_these_cells_is_refused(self, few, model):
        table = c2s.tl.explain(few, model)
        cases = [
            (table[table["rank"] > 1], "ranks of the explanation"),
            (pd.concat([table, table.assign(method="gradient")]), "ranks of the explanation"),
            (table.assign(cell="nobody"), "'nobody' of the explanation is not in the data"),
            (table.assign(gene="NOGENE"), "'NOGENE' of the explanation is not known"),
            (table.drop(columns="rank"), "no column 'rank'"),
        ]
        for wrong, said in cases:
            with pytest.raises(InputError, match=said):
                c2s.tl.deletion_test(few, model, wrong, n_genes=2)
        with pytest.raises(UsageError, match="no cell has the 40 genes"):
            c2s.tl.deletion_test(few, model, table, n_genes=20)
        with pytest.raises(UsageError, match="n_random=0"):
            c2s.tl.deletion_test(few, model, table, n_random=0)

    def test_a_table_from_a_file_will_do(self, few, model, tmp_path):
        table = c2s.tl.explain(few, model)
        table.to_csv(tmp_path / "e.csv", index=False)
        again = pd.read_csv(tmp_path / "e.csv", float_precision="round_trip")
        few.write_h5ad(tmp_path / "few.h5ad")
        data = ad.read_h5ad(tmp_path / "few.h5ad")
        one, two = (
            c2s.tl.deletion_test(d, model, t, n_genes=2).cells
            for d, t in ((few, table), (data, again))
        )
        pd.testing.assert_frame_equal(one, two)
