"""Generated cells: exactly K genes of the vocabulary, as text and as expression, in an AnnData."""

import anndata as ad
import numpy as np
import pytest

import c2s
from c2s.common.errors import C2SWarning, InputError, UsageError

TYPES = ["acinar", "alpha", "beta", "delta", "ductal"]


def words(adata):
    return [sentence.split(" ") for sentence in adata.obs["cell_sentence"]]


@pytest.fixture(scope="module")
def generated(model):
    return c2s.tl.generate(model, n=6, seed=3)


class TestCells:
    def test_exactly_k_genes_of_the_vocabulary_none_twice(self, generated, model):
        for sentence in words(generated):
            assert len(sentence) == 16
            assert len(set(sentence)) == 16
            assert set(sentence) <= set(model.vocabulary.words)

    def test_the_type_asked_for_decides_what_is_written(self, model):
        """Digestive enzymes lead acinar cells and no others, insulin beta cells."""
        cells = c2s.tl.generate(model, ["acinar", "beta"], 12, temperature=0.5)
        enzymes, insulin = {"REG1A", "PRSS1", "PRSS2", "CTRB2"}, {"INS"}
        lead = np.array([[bool(g & set(w[:3])) for g in (enzymes, insulin)] for w in words(cells)])
        acinar, beta = lead[:12].mean(0), lead[12:].mean(0)
        assert acinar[0] > 0.6 > 0.3 > beta[0]
        assert beta[1] > 0.6 > 0.3 > acinar[1]

    def test_the_object(self, generated, model):
        assert generated.shape == (30, len(model.vocabulary))
        assert list(generated.var_names) == list(model.vocabulary.words)
        assert generated.obs["cell_type"].astype(str).tolist() == list(np.repeat(TYPES, 6))
        assert set(generated.obs["organism"]) == {"Homo sapiens"}
        assert generated.obs_names.is_unique
        assert generated.X.format == "csr"
        assert generated.X.dtype == np.float32
        request = generated.uns["c2s"]["generate"]["parameters"]
        assert {k: request[k] for k in ("organism", "top_k", "temperature", "top_p", "seed")} == {
            "organism": "Homo sapiens", "top_k": 16, "temperature": 0.9, "top_p": 1.0, "seed": 3,
        }  # fmt: skip

    def test_expression_is_the_line_at_the_rank(self, generated, model):
        line = model.inverse
        for i in (0, 29):
            wanted = np.zeros(generated.n_vars)
            for rank, word in enumerate(words(generated)[i]):
                wanted[model.vocabulary.column(word)] = line.intercept + line.slope * np.log10(
                    1 + rank
                )
            np.testing.assert_allclose(
                generated.X[i].toarray()[0], np.maximum(wanted, 0), rtol=1e-5
            )

    def test_survives_a_file(self, generated, tmp_path):
        generated.write_h5ad(tmp_path / "g.h5ad")
        again = ad.read_h5ad(tmp_path / "g.h5ad")
        assert (again.X != generated.X).nnz == 0
        assert again.obs["cell_sentence"].tolist() == generated.obs["cell_sentence"].tolist()
        assert again.obs["cell_type"].tolist() == generated.obs["cell_type"].tolist()
        assert again.uns["c2s"]["generate"]["parameters"]["seed"] == 3

    def test_a_model_without_inverse_gives_sentences_and_no_expression(
        self, gene_tokenizer, make_model, tmp_path
    ):
        cells = c2s.tl.generate(make_model(gene_tokenizer), "beta", 2)
        assert cells.X.nnz == 0
        assert cells.X.dtype == np.float32
        assert cells.uns["c2s"]["generate"]["parameters"]["expression"] == "none"
        assert {len(s) for s in words(cells)} == {16}
        cells.write_h5ad(tmp_path / "g.h5ad")

    def test_in_text_mode(self, cut_genes, make_tokenizer, make_model):
        model = make_model(make_tokenizer(cut_genes, "text"))
        for sentence in words(c2s.tl.generate(model, "beta", 3, top_k=5)):
            assert len(set(sentence)) == len(sentence) == 5
            assert set(sentence) <= set(cut_genes.words)


class TestRequest:
    def test_seeds_and_batches(self, model):
        def drawn(**options):
            return (
                c2s.tl.generate(model, ["beta", "alpha"], 3, **options)
                .obs["cell_sentence"]
                .tolist()
            )

        first = drawn(seed=1)
        assert drawn(seed=1, batch_size=2) == first
        assert drawn(seed=2) != first
        assert len(set(first)) == len(first)

    def test_cells_of_temperature_0_differ_only_by_their_wording(self, model):
        n_wordings = len(model.prompts.wording("cond_cell").prompts)
        cells = c2s.tl.generate(model, "beta", 40, temperature=0, top_k=5)
        assert len(set(cells.obs["cell_sentence"])) <= n_wordings

    def test_one_type_several_types_an_array_and_a_repeated_type(self, model):
        def types(cell_type):
            return (
                c2s.tl.generate(model, cell_type, 2, top_k=2).obs["cell_type"].astype(str).tolist()
            )

        assert types("Beta") == ["beta"] * 2
        assert types(["beta", "alpha"]) == ["beta"] * 2 + ["alpha"] * 2
        assert types(np.array(["delta"], dtype=object)) == ["delta"] * 2
        assert types(["beta", "beta"]) == ["beta"] * 4

    def test_a_panel(self, model):
        panel = ["INS", "gcg", "SST", "TTR"]
        for sentence in words(c2s.tl.generate(model, "beta", 3, genes=panel, top_k=4)):
            assert set(sentence) == {"INS", "GCG", "SST", "TTR"}

    def test_genes_of_a_panel_that_it_does_not_know_are_named(self, model):
        wanted = c2s.tl.generate(model, "beta", 2, genes=["INS", "GCG"], top_k=2)
        with pytest.warns(C2SWarning, match="^1 of the 3 genes of the panel .*: NOGENE$") as told:
            found = c2s.tl.generate(model, "beta", 2, genes=["INS", "NOGENE", "GCG"], top_k=2)
        assert len(told) == 1
        assert list(found.obs["cell_sentence"]) == list(wanted.obs["cell_sentence"])
        with pytest.raises(InputError, match="none of the 1 genes"):
            c2s.tl.generate(model, "beta", genes=["NOGENE"])

    def test_a_type_never_seen_is_named_and_tried(self, model):
        with pytest.warns(
            C2SWarning, match="never saw cell_type 'kidney'; it knows: acinar, alpha, beta"
        ):
            cells = c2s.tl.generate(model, "kidney", 1)
        assert cells.obs["cell_type"].tolist() == ["kidney"]

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"cell_type": "kidney", "strict": True}, "never saw cell_type 'kidney'"),
            ({"organism": "Mus musculus", "strict": True}, "never saw organism 'Mus musculus'"),
            ({"n": 0}, "n=0 is not possible"),
            ({"top_k": 0}, "a sentence of 0 genes"),
            ({"top_k": 5000}, "a sentence of 5,000 genes, none twice, cannot be made"),
            (
                {"genes": ["INS", "GCG"]},
                "a sentence of 16 genes, none twice, cannot be made of 2 genes",
            ),
            ({"temperature": -1}, "temperature=-1 is below 0"),
            ({"top_p": 0}, r"top_p=0 is outside \(0, 1\]"),
            ({"cell_type": []}, "give cell_type="),
            ({"batch_size": 0}, "batch_size=0 is not possible"),
            ({"genes": "INS"}, "genes must be a list of names"),
            ({"genes": ["INS"], "forbid": "INS"}, "every gene that may be written is forbidden"),
            ({"temperature": (1, 2, 3)}, "temperature=.* expected one number, or those"),
        ],
    )
    def test_what_cannot_be_done_is_said(self, model, options, said):
        with pytest.raises(UsageError, match=said):
            c2s.tl.generate(model, **options)

    def test_what_does_not_fit_into_the_context(self, gene_tokenizer, make_model):
        model = make_model(gene_tokenizer, context=40)
        with pytest.raises(UsageError, match="the model's context is 40; ask for fewer genes"):
            c2s.tl.generate(model, "beta", top_k=30)

    def test_a_model_for_something_else(self, gene_tokenizer, make_model):
        with pytest.raises(UsageError, match="not trained on generation; its tasks: cell_type"):
            c2s.tl.generate(make_model(gene_tokenizer, card={"tasks": ["cell_type"]}))

    @pytest.mark.parametrize("known", [[], ["Homo sapiens", "Mus musculus"]])
    def test_an_organism_that_cannot_be_known_is_asked_for(self, gene_tokenizer, make_model, known):
        model = make_model(
            gene_tokenizer, card={"conditions": {"cell_type": TYPES, "organism": known}}
        )
        with pytest.raises(UsageError, match="give organism=…; the model knows: "):
            c2s.tl.generate(model, "beta")


ALL = [
    "sc_lm",
    "cond_cell",
    "mc_lm",
    "cond_sample_tissue",
    "cond_sample_cell_type",
    "cond_sample_abstract",
]
SEEN = {"cell_type": TYPES, "organism": ["Homo sapiens"], "tissue": ["kidney", "pancreas"]}


@pytest.fixture(scope="module")
def able(gene_tokenizer, make_model):
    """Return a function that makes a model of random weights with given tasks."""

    def make(*tasks, **shape):
        card = {"tasks": list(tasks or ALL), "conditions": SEEN}
        return make_model(gene_tokenizer, card=card, **shape)

    return make


def task_of(adata):
    return adata.uns["c2s"]["generate"]["parameters"]["task"]


def test_numbers_may_be_those_of_numpy(able, tmp_path):
    cells = c2s.tl.generate(
        able(), "beta", n=np.int64(2), top_k=np.int64(3), seed=np.int64(5), temperature=np.float32(0.5)
    )  # fmt: skip
    cells.write_h5ad(tmp_path / "g.h5ad")
    parameters = ad.read_h5ad(tmp_path / "g.h5ad").uns["c2s"]["generate"]["parameters"]
    assert {k: parameters[k] for k in ("n", "seed", "top_k", "temperature")} == {
        "n": 2, "seed": 5, "top_k": 3, "temperature": 0.5,
    }  # fmt: skip


class TestTasks:
    @pytest.mark.parametrize(
        ("given", "task", "columns"),
        [
            ({}, "sc_lm", []),
            ({"organism": "Homo sapiens"}, "sc_lm", []),
            ({"cell_type": "beta"}, "cond_cell", ["cell_type"]),
            ({"per_sample": 2}, "mc_lm", ["sample"]),
            ({"tissue": "kidney"}, "cond_sample_tissue", ["tissue", "sample"]),
            (
                {"cell_type": ["beta", "alpha"], "per_sample": 4},
                "cond_sample_cell_type",
                ["cell_type", "sample"],
            ),
            ({"abstract": "Cells of a study."}, "cond_sample_abstract", ["abstract", "sample"]),
        ],
    )
    def test_the_task_follows_from_what_is_given(self, able, given, task, columns):
        cells = c2s.tl.generate(able(), n=2, top_k=3, **given)
        assert task_of(cells) == task
        wanted = {*columns, "organism", "cell_sentence", "prompt"}
        assert set(cells.obs.columns) == wanted
        for name in columns:
            if name in given:
                assert set(cells.obs[name]) == set(np.atleast_1d(given[name]))
        for sentence in words(cells):
            assert len(set(sentence)) == len(sentence) == 3

    def test_prompts_say_what_was_asked(self, able):
        cells = c2s.tl.generate(able(), tissue="Kidney", n=3, top_k=4)
        assert cells.obs["prompt"].nunique() == 1
        for part in ("3", "4", "kidney", "Homo sapiens"):
            assert part in cells.obs["prompt"].iloc[0]
        typed = c2s.tl.generate(able(), ["beta", "alpha"], n=2, per_sample=3, top_k=4)
        labels = "Cell 1: beta\nCell 2: beta\nCell 3: alpha"
        assert [labels in p for p in typed.obs["prompt"]] == [True, True, True, False]

    def test_types_alone_where_the_model_writes_only_samples_of_them(self, able):
        cells = c2s.tl.generate(able("cond_sample_cell_type"), "beta", n=3, top_k=2)
        assert task_of(cells) == "cond_sample_cell_type"
        assert cells.obs["sample"].nunique() == 1

    def test_without_a_task_for_no_condition_every_type_is_written(self, able):
        cells = c2s.tl.generate(able("cond_cell", "mc_lm"), top_k=2)
        assert cells.obs["cell_type"].tolist() == TYPES
        assert (
            task_of(c2s.tl.generate(able("cond_cell", "mc_lm"), n=2, per_sample=2, top_k=2))
            == "mc_lm"
        )

    def test_a_type_in_a_tissue_is_tried_in_words_and_refused_when_strict(self, able):
        said = "not trained to generate by cell_type and tissue; it generates by cell_type, and the tissue is only"
        with pytest.warns(C2SWarning, match=said):
            cells = c2s.tl.generate(able(), "beta", n=2, tissue="pancreas", top_k=2)
        assert task_of(cells) == "cond_cell"
        assert cells.obs["cell_type"].tolist() == ["beta"] * 2
        assert cells.obs["tissue"].tolist() == ["pancreas"] * 2
        assert all("beta in pancreas" in p for p in cells.obs["prompt"])
        with pytest.raises(UsageError, match="cells by cell_type .cond_cell., samples .mc_lm."):
            c2s.tl.generate(able(), "beta", tissue="pancreas", strict=True)

    @pytest.mark.parametrize(
        ("tasks", "given", "said"),
        [
            (["cond_cell"], {"tissue": "kidney"}, "by tissue; it generates cells by cell_type"),
            (["sc_lm"], {"cell_type": "beta"}, r"by cell_type; it generates cells \(sc_lm\)"),
            (["cond_sample_tissue"], {}, "does not generate cells without a condition; it generates samples by tissue"),
            (["cond_cell", "cond_sample_tissue"], {"per_sample": 2}, "without a condition; .*; give tissue=…$"),
            (["sc_lm"], {"per_sample": 3}, "does not generate several cells at once without a condition"),
            (["cond_cell"], {"cell_type": "beta", "per_sample": 3}, "by cell_type, several cells at once"),
            (ALL, {"colour": "red"}, "'colour' is neither an argument of generate nor a condition"),
            (ALL, {"tissue": "liver", "strict": True}, "never saw tissue 'liver'; it knows: kidney, pancreas"),
            (ALL, {"per_sample": 0}, "per_sample=0 is not possible"),
            (ALL, {"prompt": "beta cells", "tissue": "kidney"}, "either a prompt or conditions"),
        ],
    )  # fmt: skip
    def test_what_the_model_has_no_task_for_is_said(self, able, tasks, given, said):
        with pytest.raises(UsageError, match=said):
            c2s.tl.generate(able(*tasks), n=4, **given)


class TestSamples:
    def test_cells_of_a_sample_are_told_apart_and_survive_a_file(self, able, tmp_path):
        cells = c2s.tl.generate(able(), n=7, tissue="kidney", per_sample=3, top_k=5, seed=4)
        assert cells.obs["sample"].tolist() == ["4-0"] * 3 + ["4-1"] * 3 + ["4-2"]
        assert len(set(cells.obs["cell_sentence"])) == 7
        for sentence in words(cells):
            assert len(set(sentence)) == len(sentence) == 5
        cells.write_h5ad(tmp_path / "g.h5ad")
        again = ad.read_h5ad(tmp_path / "g.h5ad")
        assert again.obs["sample"].tolist() == cells.obs["sample"].tolist()
        assert again.uns["c2s"]["generate"]["parameters"]["per_sample"] == 3

    def test_in_text_mode(self, cut_genes, make_tokenizer, make_model):
        card = {"tasks": ALL, "conditions": SEEN}
        model = make_model(make_tokenizer(cut_genes, "text"), card=card, context=1024)
        cells = c2s.tl.generate(model, n=3, tissue="kidney", top_k=6)
        assert cells.obs["sample"].nunique() == 1
        for sentence in words(cells):
            assert len(set(sentence)) == len(sentence) == 6
            assert set(sentence) <= set(cut_genes.words)

    def test_seeds_and_batches(self, able):
        def drawn(**options):
            cells = c2s.tl.generate(able(), n=8, tissue="kidney", per_sample=3, top_k=5, **options)
            return cells.obs["cell_sentence"].tolist()

        first = drawn(seed=1)
        assert drawn(seed=1, batch_size=1) == first
        assert drawn(seed=2) != first

    def test_the_most_probable_sample_is_that_of_a_slow_loop(self, able):
        """Each token is the best of those that keep the sample possible, by a full pass over the text so far."""
        import torch

        model = able()
        cells = c2s.tl.generate(model, n=2, tissue="kidney", top_k=4, temperature=0)
        tokenizer, ids = model.tokenizer, []
        ids += tokenizer.encode([str(cells.obs["prompt"].iloc[0])]).tolist()
        genes = tokenizer.gene_tokens.ids
        found = []
        for header in (" Cell 1:", "\nCell 2:"):
            ids += tokenizer.encode_before_gene(header + " ").tolist()
            written = []
            for _ in range(4):
                with torch.no_grad():
                    logits = model.network(torch.tensor([ids])).logits[0, -1].numpy()
                free = [g for g in range(len(genes)) if g not in written]
                written.append(max(free, key=lambda g: logits[genes[g]]))
                ids.append(int(genes[written[-1]]))
            found.append([model.vocabulary.words[g] for g in written])
        assert words(cells) == found

    def test_as_many_cells_as_fit_are_one_sample(self, able):
        model = able(context=150)
        cells = c2s.tl.generate(model, n=7, tissue="kidney", top_k=16)
        sizes = cells.obs["sample"].value_counts().tolist()
        assert sum(sizes) == 7
        assert max(sizes) - min(sizes) <= 2
        largest = cells.uns["c2s"]["generate"]["parameters"]["per_sample"]
        assert 1 < largest < 7
        with pytest.raises(UsageError, match="the model's context is 150"):
            c2s.tl.generate(model, n=7, tissue="kidney", per_sample=7, top_k=16)

    def test_as_many_as_fit_where_later_types_have_longer_names(self, able):
        long = "CD8-positive, alpha-beta, T cell of the memory kind " * 2
        model = able("cond_sample_cell_type", context=400)
        with pytest.warns(C2SWarning, match="never saw"):
            cells = c2s.tl.generate(model, ["beta", long], n=9, top_k=4)
        assert cells.n_obs == 18
        assert cells.obs["sample"].nunique() > 1


class TestPrompt:
    def test_is_the_same_as_its_conditions(self, able):
        model = able()
        asked = c2s.tl.generate(model, prompt="generate 4 human cells from kidney tissue", top_k=3)
        given = c2s.tl.generate(model, tissue="kidney", organism="Homo sapiens", n=4, top_k=3)
        assert asked.obs.equals(given.obs)
        request = asked.uns["c2s"]["generate"]["parameters"]
        assert request["request"] == "generate 4 human cells from kidney tissue"
        assert request["understood"] == "n=4, tissue=kidney, organism=Homo sapiens, top_k=3"

    def test_one_sample_of_cells(self, able):
        cells = c2s.tl.generate(able(), prompt="a sample of 3 human cells", top_k=3)
        assert task_of(cells) == "mc_lm"
        assert cells.obs["sample"].nunique() == 1

    def test_a_number_of_genes_in_the_request(self, able):
        cells = c2s.tl.generate(able(), prompt="2 human cells of 5 genes from kidney tissue")
        assert [len(sentence) for sentence in words(cells)] == [5, 5]
        with pytest.raises(UsageError, match="says 5 genes, and top_k=4 is given"):
            c2s.tl.generate(able(), prompt="2 human cells of 5 genes", top_k=4)

    def test_of_a_text_that_is_not_understood_only_what_was_given_apart_is_kept(self, able):
        text = "a human beta cell treated with interferon, 4 genes"
        with pytest.warns(C2SWarning, match="as it is, for 1 cell of 4 genes"):
            cells = c2s.tl.generate(able(), prompt=text, organism="Homo sapiens")
        assert list(cells.obs.columns) == ["organism", "cell_sentence", "prompt"]
        assert cells.obs["organism"].tolist() == ["Homo sapiens"]
        assert len(words(cells)[0]) == 4

    def test_what_is_not_understood_is_sent_as_it_is(self, able):
        text = "2 beta cells treated with interferon"
        with pytest.warns(
            C2SWarning, match="never saw 'treated interferon'.* goes to the model as it is"
        ):
            cells = c2s.tl.generate(able(), prompt=text, top_k=4)
        assert cells.obs["prompt"].tolist() == [text] * 2
        assert list(cells.obs.columns) == ["cell_sentence", "prompt"]
        parameters = cells.uns["c2s"]["generate"]["parameters"]
        assert (parameters["request"], parameters["task"]) == (text, "as it is")
        assert "understood" not in parameters
        for sentence in words(cells):
            assert len(set(sentence)) == len(sentence) == 4
        with pytest.raises(UsageError, match="never saw 'treated interferon'"):
            c2s.tl.generate(able(), prompt=text, strict=True)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"n": 3}, "the request says 2 cells, the number given is 3"),
            ({"organism": "Mus musculus"}, "the request says Homo sapiens"),
        ],
    )
    def test_what_contradicts_it_is_refused(self, able, options, said):
        with pytest.raises(UsageError, match=said):
            c2s.tl.generate(able(), prompt="2 human beta cells", **options)


class TestControl:
    def test_forbidden_and_required_genes(self, able, model, cut_genes):
        absent, needed = ["INS", "GCG", "TTR"], list(cut_genes.words[:10])
        for cells in (
            c2s.tl.generate(model, ["beta", "alpha"], 10, forbid=absent, require=needed),
            c2s.tl.generate(able(), n=4, tissue="kidney", top_k=12, forbid=absent, require=needed),
        ):
            for sentence in words(cells):
                assert len(set(sentence)) == len(sentence)
                assert set(needed) <= set(sentence)
                assert not set(absent) & set(sentence)

    def test_one_temperature_from_first_to_last_is_that_temperature(self, model):
        flat = c2s.tl.generate(model, "beta", 6, temperature=(0.7, 0.7)).obs["cell_sentence"]
        assert flat.tolist() == c2s.tl.generate(model, "beta", 6, temperature=0.7).obs["cell_sentence"].tolist()  # fmt: skip

    def test_a_pair_of_temperatures_may_be_a_list(self, model):
        pair, listed = (
            c2s.tl.generate(model, "beta", 3, temperature=t) for t in ((0.5, 2.0), [0.5, 2.0])
        )
        assert pair.obs.equals(listed.obs)
        assert listed.uns["c2s"]["generate"]["parameters"]["temperature"] == [0.5, 2.0]

    def test_only_the_cold_end_is_sure(self, model):
        """From 0 to 2 the first gene is the most probable one, later ones are drawn wildly."""
        cells = words(c2s.tl.generate(model, "beta", 40, temperature=(0.0, 2.0)))
        sure = words(c2s.tl.generate(model, "beta", 40, temperature=0))
        assert [c[0] for c in cells] == [c[0] for c in sure]
        assert len({c[-1] for c in cells}) > 2 * len({c[-1] for c in sure})

    def test_what_cannot_be_held_is_said(self, model):
        with pytest.raises(
            UsageError, match="does not know the required gene 'INSS' .nearest: INS"
        ):
            c2s.tl.generate(model, "beta", require=["INSS"])
        with pytest.raises(UsageError, match="INS is required, and it is forbidden"):
            c2s.tl.generate(model, "beta", require="INS", forbid=["ins"])
        with pytest.raises(UsageError, match="2 genes are required, and a sentence has 1"):
            c2s.tl.generate(model, "beta", require=["INS", "GCG"], top_k=1)
        with pytest.warns(C2SWarning, match="the model does not know anyway: NOGENE"):
            c2s.tl.generate(model, "beta", forbid=["NOGENE"], top_k=2)
        with pytest.raises(UsageError, match=r"temperature=\(1.0, -1.0\) is below 0"):
            c2s.tl.generate(model, "beta", temperature=(1.0, -1.0))
