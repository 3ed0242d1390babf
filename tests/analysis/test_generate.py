"""Generated cells: exactly K genes of the vocabulary, as text and as expression, in an AnnData."""

import anndata as ad
import numpy as np
import pytest

import c2s
from c2s.common.errors import C2SWarning, UsageError

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
