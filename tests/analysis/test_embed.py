"""Embeddings: the mean of the last hidden states over the annotation prompt, in `obsm`."""

import numpy as np
import pytest
import torch

import c2s
from c2s.common.errors import UsageError
from c2s.models.directory import attach


@pytest.fixture
def few(cut):
    return cut[::12].copy()


def by_hand(model, adata):
    """Tokens of the text that a person would write, one cell at a time, without padding."""
    cells = c2s.pp.cell_sentences(adata, top_k=16, genes=list(model.vocabulary.words))
    result = []
    for i in range(len(cells)):
        (text,) = (
            model.prompts.wording("cell_type")
            .prompts[0]
            .fill({"organism": "Homo sapiens", "num_genes": 16, "cell_sentence": cells.sentence(i)})
        )
        ids = torch.tensor([model.tokenizer.backend(text)["input_ids"]])
        with torch.no_grad():
            states = model.network(ids, output_hidden_states=True).hidden_states[-1]
        result.append(states[0].mean(0).numpy())
    return np.stack(result)


def test_is_the_mean_over_the_annotation_prompt(few, model):
    before = few.X.toarray()
    assert c2s.tl.embed(few, model) is None
    found = few.obsm["X_c2s"]
    assert found.dtype == np.float32
    assert found.shape == (few.n_obs, model.network.config.hidden_size)
    np.testing.assert_allclose(found, by_hand(model, few), atol=1e-5)
    assert (few.X.toarray() == before).all()
    assert few.uns["c2s"]["embed"]["keys"] == {"obsm": ["X_c2s"]}
    assert few.uns["c2s"]["embed"]["parameters"] == {
        "top_k": 16,
        "seed": 0,
        "organism": "Homo sapiens",
    }


def test_neither_batch_nor_neighbours_matter(few, model):
    together = c2s.tl.embed(few, model, copy=True).obsm["X_c2s"]
    alone = c2s.tl.embed(few[3:5].copy(), model, batch_size=1, copy=True).obsm["X_c2s"]
    np.testing.assert_allclose(alone, together[3:5], atol=1e-5)
    assert "X_c2s" not in few.obsm


def test_cells_of_a_type_lie_together(cut, model):
    from sklearn.neighbors import KNeighborsClassifier

    part = cut[::3].copy()
    c2s.tl.embed(part, model)
    labels = part.obs["cell_type"].astype(str).to_numpy()
    nearest = KNeighborsClassifier(1).fit(part.obsm["X_c2s"][::2], labels[::2])
    assert nearest.score(part.obsm["X_c2s"][1::2], labels[1::2]) > 0.8


def test_any_model_will_do(few, make_tokenizer, make_network, cut_genes, tmp_path):
    """A Hugging Face model that never saw a cell, in "text" mode."""
    tokenizer = make_tokenizer(cut_genes, "text")
    make_network("llama", tokenizer).save_pretrained(tmp_path)
    tokenizer.backend.save_pretrained(tmp_path)
    model = attach(tmp_path, cut_genes, top_k=16)
    c2s.tl.embed(few, model)
    np.testing.assert_allclose(few.obsm["X_c2s"], by_hand(model, few), atol=1e-5)


def test_keys(few, model):
    few.obsm["X_c2s"] = np.zeros((few.n_obs, 2))
    with pytest.raises(UsageError, match=r"obsm\['X_c2s'\] exists already"):
        c2s.tl.embed(few, model)
    c2s.tl.embed(few, model, key_added="mine")
    c2s.tl.embed(few, model, key_added="mine", seed=1)
    assert set(few.obsm) == {"X_c2s", "mine"}


@pytest.mark.parametrize("mode", ["text", "genes"])
def test_a_mean_over_the_cell_alone(few, make_tokenizer, make_model, cut_genes, mode):
    """Tokens of the cell are those between what stands before it and what stands behind it, with the space before."""
    model = make_model(make_tokenizer(cut_genes, mode), "llama")
    c2s.tl.embed(few, model, tokens="cell")
    assert few.uns["c2s"]["embed"]["parameters"]["tokens"] == "cell"
    cells = c2s.pp.cell_sentences(few, top_k=16, genes=list(model.vocabulary.words))
    template = model.prompts.wording("cell_type").prompts[0]
    for i in range(len(cells)):
        fields = {"organism": "Homo sapiens", "num_genes": 16}
        sentence = cells.sentence(i)
        (text,) = template.fill({**fields, "cell_sentence": sentence})
        encoded = model.tokenizer.backend(text, return_offsets_mapping=True)
        begin = text.index(f" {sentence}")  # the space is the first gene's
        inside = [b > begin and a <= begin + len(sentence) for a, b in encoded["offset_mapping"]]
        with torch.no_grad():
            states = model.network(
                torch.tensor([encoded["input_ids"]]), output_hidden_states=True
            ).hidden_states[-1][0]
        wanted = states[torch.tensor(inside)].mean(0)
        np.testing.assert_allclose(few.obsm["X_c2s"][i], wanted, atol=1e-5)
    with pytest.raises(UsageError, match="tokens='genes' is unknown; use 'prompt' or 'cell'"):
        c2s.tl.embed(few, model, tokens="genes")


def test_chunks_change_nothing(few, model):
    whole, chunked = (
        c2s.tl.embed(few, model, chunk_size=size, copy=True).obsm["X_c2s"] for size in (4096, 4)
    )
    np.testing.assert_allclose(chunked, whole, atol=1e-5)
    with pytest.raises(UsageError, match="chunk_size=0 is not possible"):
        c2s.tl.embed(few, model, chunk_size=0)
