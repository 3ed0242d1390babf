"""A tiny random BERT and RoBERTa, and BERTScore on them against the bert-score package."""

import json
import shutil
import sys

import numpy as np
import pytest

from c2s.common.errors import InputError, UsageError
from c2s.encoders.text import TransformerTextEncoder
from c2s.metrics import bertscore_parts

WORDS = "a the beta alpha cell cells of islet islets insulin secret ##es ##ing large , .".split()
CANDIDATES = [
    "a beta cell",
    "cells of the islets, secreting insulin.",
    "alpha",
    "  islet ",
    "a unknown cell",
]
REFERENCES = ["a beta cell", "the islet secretes insulin", "large cells", "islet", "a cell"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder with a BERT of three layers and a word-piece tokenizer."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 16}
        )
    )
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=20, initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """A folder with a RoBERTa of two layers and a byte-level tokenizer."""
    import torch
    import transformers
    from tokenizers import ByteLevelBPETokenizer

    folder = tmp_path_factory.mktemp("roberta")
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(CANDIDATES + REFERENCES, vocab_size=320, special_tokens=special)
    trained.save_model(str(folder))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "RobertaTokenizer", "model_max_length": 24})
    )
    config = transformers.RobertaConfig(
        vocab_size=320, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, pad_token_id=1,
        intermediate_size=24, max_position_embeddings=26, initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.RobertaModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def by_package(monkeypatch):
    """Return a function that asks bert-score."""
    package = pytest.importorskip("bert_score")
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    # transformers 5 no longer has the method that bert-score 0.3.13 encodes empty texts with.
    monkeypatch.setattr(
        PreTrainedTokenizerBase,
        "build_inputs_with_special_tokens",
        lambda self, ids: [self.cls_token_id, *ids, self.sep_token_id],
        raising=False,
    )
    # Nor does a call of its tokenizers still take `add_prefix_space`, which bert-score passes for RoBERTa.
    monkeypatch.setattr(
        sys.modules["bert_score.score"],
        "get_tokenizer",
        lambda folder, fast: AutoTokenizer.from_pretrained(folder, add_prefix_space=True),
    )

    def ask(folder, candidates, references, num_layers):
        # One pair at a time: in a batch, bert-score lets padding count as a token of similarity 0.
        options = {
            "model_type": str(folder),
            "num_layers": num_layers,
            "device": "cpu",
            "batch_size": 1,
        }
        found = package.score(list(candidates), list(references), **options)
        return np.stack([part.numpy() for part in found], axis=1)

    return ask


@pytest.mark.parametrize("which", ["bert", "roberta"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_bertscore_equals_the_package(which, num_layers, request, by_package):
    folder = request.getfixturevalue(which)
    encoder = TransformerTextEncoder(folder, num_layers=num_layers, batch_size=3)
    long = "the islet secretes insulin " * 10  # cut
    candidates, references = (
        [*CANDIDATES, long, "", "a cell"],
        [*REFERENCES, "a cell", "islet", " "],
    )
    found = bertscore_parts(candidates, references, encoder)
    ours = np.stack([found.precision, found.recall, found.f1], axis=1)
    np.testing.assert_allclose(
        ours, by_package(folder, candidates, references, num_layers), atol=1e-6
    )
    assert (ours[-2:] == 0).all()


def test_special_tokens_weigh_nothing_and_layers_differ(bert):
    ((vectors, weights),) = TransformerTextEncoder(bert, num_layers=2)(["a beta cell"])
    assert vectors.shape == (5, 16)
    assert vectors.dtype == np.float32
    assert weights.tolist() == [0, 1, 1, 1, 0]
    ((other, _),) = TransformerTextEncoder(bert, num_layers=3)(["a beta cell"])
    assert not np.allclose(vectors, other)


def test_a_text_does_not_depend_on_the_others(bert):
    encoder = TransformerTextEncoder(bert, num_layers=3)
    ((alone, _),) = encoder([CANDIDATES[0]])
    together = encoder([CANDIDATES[1], CANDIDATES[0], "the " * 12])
    np.testing.assert_allclose(together[1][0], alone, atol=1e-5)
    assert [len(weights) for _, weights in together] == [
        len(encoder([text])[0][1]) for text in (CANDIDATES[1], CANDIDATES[0], "the " * 12)
    ]
    assert encoder([]) == []


def test_long_texts_are_cut_to_what_the_network_reads(bert, roberta):
    assert len(TransformerTextEncoder(bert, num_layers=1)(["cell " * 99])[0][1]) == 16
    assert len(TransformerTextEncoder(roberta, num_layers=1)(["cell " * 99])[0][1]) == 24


def test_the_digest_names_weights_and_layer(bert, roberta):
    digest = TransformerTextEncoder(bert, num_layers=1).digest()
    assert digest == TransformerTextEncoder(bert, num_layers=1, batch_size=2).digest()
    assert digest != TransformerTextEncoder(bert, num_layers=2).digest()
    assert digest != TransformerTextEncoder(roberta, num_layers=1).digest()


def test_weights_that_are_missing_are_not_made_up(bert, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "cut"
    shutil.copytree(bert, folder)
    weights = load_file(folder / "model.safetensors")
    pooler = {k: v for k, v in weights.items() if "pooler" not in k}
    save_file(pooler, folder / "model.safetensors", {"format": "pt"})
    whole, cut = (TransformerTextEncoder(f, num_layers=2)(["a beta cell"]) for f in (bert, folder))
    np.testing.assert_array_equal(cut[0][0], whole[0][0])
    part = {k: v for k, v in weights.items() if "layer.1" not in k}
    save_file(part, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="the weights lack 'encoder.layer.1"):
        TransformerTextEncoder(folder, num_layers=2)


def test_a_pytorch_file_is_read_as_tensors_only(bert, tmp_path):
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "bin"
    shutil.copytree(bert, folder)
    (folder / "model.safetensors").unlink()
    torch.save(load_file(bert / "model.safetensors"), folder / "pytorch_model.bin")
    read, whole = (TransformerTextEncoder(f, num_layers=2)(["a beta cell"]) for f in (folder, bert))
    np.testing.assert_array_equal(read[0][0], whole[0][0])
    torch.save({"code": shutil.rmtree}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="could not be read as a text encoder"):
        TransformerTextEncoder(folder, num_layers=2)


def test_what_is_no_encoder_is_refused(bert, tmp_path):
    with pytest.raises(InputError, match="found no folder"):
        TransformerTextEncoder(tmp_path / "absent", num_layers=1)
    with pytest.raises(InputError, match="could not be read as a text encoder"):
        TransformerTextEncoder(tmp_path, num_layers=1)
    with pytest.raises(UsageError, match="num_layers: found 4, expected 1 to 3"):
        TransformerTextEncoder(bert, num_layers=4)
    with pytest.raises(UsageError, match="batch_size"):
        TransformerTextEncoder(bert, num_layers=1, batch_size=0)
