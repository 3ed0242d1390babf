"""Adapters in model directories: what is saved comes back, merged or not; a base that is gone or another one is named."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch

from c2s.analysis.annotate import annotate
from c2s.analysis.generate import generate_cells
from c2s.common.errors import InputError, UsageError
from c2s.decoding.opening import open_engine
from c2s.decoding.sampling import Sampling
from c2s.models import directory, weights
from c2s.models.adapters import add_lora, merge, merged, record_base, take_tokens
from c2s.models.directory import C2S_JSON, Model, load_model
from c2s.tokens.tokenizer import CellTokenizer, add_gene_tokens, load_tokenizer

ARCHITECTURES = ["gpt_neox", "llama", "gemma2"]
TYPES = ["alpha", "beta", "delta"]


@pytest.fixture(scope="module")
def bases(make_tokenizer, make_model, cut_genes, tmp_path_factory):
    """Model directories whose tokenizer writes genes in pieces."""
    tokenizer, folder = make_tokenizer(cut_genes, "text"), tmp_path_factory.mktemp("bases")
    for architecture in ARCHITECTURES:
        make_model(tokenizer, architecture).save(folder / architecture)
    return folder


@pytest.fixture(scope="module")
def adapter(bases, cut_genes, make_card):
    """Return a function that makes a model with an adapter that does something, with a token a gene, on a base."""

    def make(architecture, base=None):
        base = base or bases / architecture
        backend = copy.deepcopy(load_tokenizer(base))
        add_gene_tokens(backend, cut_genes)
        tokenizer = CellTokenizer(backend, cut_genes, "genes")
        network = directory.load_network(base)
        rows = take_tokens(network, base, tokenizer)
        assert len(rows) == len(cut_genes)
        found = add_lora(network, rank=4, alpha=8, dropout=0.1, targets="all-linear", rows=rows)
        torch.manual_seed(1)
        for parameter in found.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
        card = make_card(tokenizer, adapter=record_base(base, str(base)))
        return Model(found.eval(), tokenizer, card)

    return make


def logits(model):
    ids = model.tokenizer.encode(["Cell: ", np.array([0, 4, 2, 9]), "\nCell type: beta"])
    with torch.no_grad():
        return model.network(torch.tensor(ids[None].astype(np.int64))).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saved_loaded_and_merged_give_the_same_logits(architecture, adapter, bases, tmp_path):
    model = adapter(architecture)
    wanted = logits(model)
    base = load_model(bases / architecture, device="cpu")
    assert (wanted[..., : len(base.tokenizer.backend)] - logits(base)[:, :1]).abs().max() > 0.1
    model.save(tmp_path / "adapter")
    files = {p.name for p in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", C2S_JSON} <= files
    assert not files & {"model.safetensors", "README.md"}
    table = (bases / architecture / "model.safetensors").stat().st_size
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size < table
    again = load_model(tmp_path / "adapter", device="cpu")
    assert again.adapted is not None
    torch.testing.assert_close(logits(again), wanted, atol=1e-6, rtol=0)
    whole = merge(tmp_path / "adapter")
    assert whole.adapted is None
    assert not any("lora" in name for name in whole.network.state_dict())
    torch.testing.assert_close(logits(whole), wanted, atol=1e-5, rtol=0)
    whole.save(tmp_path / "whole")
    alone = load_model(tmp_path / "whole", device="cpu")
    assert alone.card.adapter is None
    assert torch.equal(logits(alone), logits(whole))
    # A loaded one is saved as it was.
    load_model(tmp_path / "adapter", device="cpu").save(tmp_path / "twice")
    assert torch.equal(logits(load_model(tmp_path / "twice", device="cpu")), logits(again))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_annotation_and_generation_are_those_of_the_merged_model(
    architecture, adapter, cut, tmp_path
):
    adapter(architecture).save(tmp_path / "adapter")
    model, whole = load_model(tmp_path / "adapter", device="cpu"), merge(tmp_path / "adapter")
    cells = cut[::25]
    probabilities = []
    for asked in (model, whole):
        found = annotate(cells, asked, TYPES, probabilities_key="p", copy=True)
        probabilities.append(np.asarray(found.obsm["p"]))
    np.testing.assert_allclose(probabilities[0], probabilities[1], atol=1e-5)
    assert probabilities[0].std() > 1e-3
    drawn = [
        generate_cells(
            asked, ["beta"] * 3, "Homo sapiens", top_k=8, sampling=Sampling(seed=2)
        ).genes
        for asked in (model, whole)
    ]
    assert len(drawn[0]) == 3 * 8
    assert drawn[0].tolist() == drawn[1].tolist()
    prompts = [asked.tokenizer.encode(["Cell type: beta"]) for asked in (model, whole)]
    vectors = [open_engine(a).embed([p]) for a, p in zip((model, whole), prompts, strict=True)]
    np.testing.assert_allclose(*vectors, atol=1e-5)


class TestBase:
    @pytest.fixture
    def place(self, adapter, bases, tmp_path):
        """A folder with a base and, beside it, an adapter."""
        shutil.copytree(bases / "llama", tmp_path / "here" / "base")
        model = adapter("llama", tmp_path / "here" / "base")
        model.save(tmp_path / "here" / "adapter")
        return tmp_path / "here"

    def test_both_can_be_moved_together(self, place, tmp_path):
        wanted = logits(load_model(place / "adapter", device="cpu"))
        place.rename(tmp_path / "there")
        moved = load_model(tmp_path / "there" / "adapter", device="cpu")
        assert torch.equal(logits(moved), wanted)

    def test_one_that_is_gone_is_named_and_can_be_given(self, place, tmp_path):
        wanted = logits(load_model(place / "adapter", device="cpu"))
        (place / "base").rename(tmp_path / "elsewhere")
        with pytest.raises(InputError, match="the base of this adapter is not at .*base any more"):
            load_model(place / "adapter", device="cpu")
        found = load_model(place / "adapter", base=tmp_path / "elsewhere", device="cpu")
        assert torch.equal(logits(found), wanted)

    def test_other_weights_are_refused(self, place, make_model, make_tokenizer, cut_genes):
        other = make_model(make_tokenizer(cut_genes, "text"), "llama", seed=5)
        other.save(place / "base")
        with pytest.raises(InputError, match="is not the base that this adapter was trained on"):
            load_model(place / "adapter", device="cpu")

    def test_a_damaged_adapter_is_named(self, place):
        file = place / "adapter" / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes()[:100])
        with pytest.raises(InputError, match="the adapter cannot be read") as caught:
            load_model(place / "adapter", device="cpu")
        assert "\n" not in str(caught.value)
        file.unlink()
        with pytest.raises(InputError, match="adapter_model.safetensors is missing"):
            load_model(place / "adapter", device="cpu")

    def test_how_the_base_is_loaded_reaches_load_network(self, place, monkeypatch):
        asked = {}
        load = weights.load_network

        def note(path, **options):
            asked.update(options, path=path)
            return load(path, config=options["config"])

        monkeypatch.setattr(weights, "load_network", note)
        load_model(place / "adapter", quantize="4bit", device="cpu", dtype="bfloat16")
        assert asked["quantize"] == "4bit"
        assert asked["device_map"] == {"": "cpu"}
        assert asked["dtype"] == "bfloat16"
        assert asked["path"] == place / "base"


class TestRefused:
    def test_base_of_a_model_without_an_adapter(self, bases):
        with pytest.raises(UsageError, match="has no adapter; leave out base"):
            load_model(bases / "llama", base=bases / "llama")
        with pytest.raises(UsageError, match="no adapter to merge"):
            merge(bases / "llama")

    def test_an_engine_that_reads_files_itself(self, adapter, tmp_path):
        adapter("llama").save(tmp_path / "adapter")
        with pytest.raises(UsageError, match="c2s model merge"):
            load_model(tmp_path / "adapter", weights=False)

    def test_an_adapter_whose_base_is_not_known_is_not_saved(self, adapter, tmp_path):
        model = adapter("llama")
        model.card = model.card.model_copy(update={"adapter": None})
        with pytest.raises(UsageError, match="record_base"):
            model.save(tmp_path / "adapter")
        merged(model).save(tmp_path / "whole")
        assert not json.loads((tmp_path / "whole" / C2S_JSON).read_text())["adapter"]

    def test_without_the_extra(self, adapter, tmp_path, monkeypatch):
        adapter("llama").save(tmp_path / "adapter")
        monkeypatch.setattr("c2s.models.adapters.find_spec", lambda name: None)
        with pytest.raises(UsageError, match=r"c2s-toolkit\[lora\]"):
            load_model(tmp_path / "adapter", device="cpu")


def test_weights_that_are_packed_count_as_what_they_stand_for():
    class Packed(torch.nn.Parameter):
        """As bitsandbytes has them: two weights a byte once they are on a GPU, and a state that says how."""

        quant_state = None

    whole = torch.nn.Parameter(torch.zeros(6, 5))
    still = Packed(torch.zeros(6, 4), requires_grad=False)
    packed = Packed(torch.zeros(12, 1, dtype=torch.uint8), requires_grad=False)
    in_floats = Packed(torch.zeros(6, 1, dtype=torch.bfloat16), requires_grad=False)
    packed.quant_state = in_floats.quant_state = object()
    assert [weights.n_weights([p]) for p in (whole, still, packed, in_floats)] == [30, 24, 24, 24]
    assert weights.n_weights([whole, packed]) == 54
    network = torch.nn.Linear(5, 6, bias=False)
    network.weight = packed
    assert Model(network, None, None).n_parameters == 24


def test_another_tokenizer_is_refused_with_the_name_of_the_base(bases, make_tokenizer, cut_genes):
    network = directory.load_network(bases / "llama")
    other = make_tokenizer(cut_genes, "text", 300)
    with pytest.raises(UsageError, match="with tokenizer: owner/name$"):
        take_tokens(network, bases / "llama", other, "owner/name")
    with pytest.raises(UsageError, match="with tokenizer: .*/llama$"):
        take_tokens(network, bases / "llama", other)


def test_new_tokens_begin_as_the_mean_of_their_pieces(bases, adapter, cut_genes):
    own = load_tokenizer(bases / "llama")
    table = directory.load_network(bases / "llama").get_input_embeddings().weight
    network = directory.load_network(bases / "llama")
    tokenizer = adapter("llama").tokenizer
    rows = take_tokens(network, bases / "llama", tokenizer)
    for row, word in list(zip(rows, cut_genes.words, strict=True))[::20]:
        pieces = own(f" {word}", add_special_tokens=False)["input_ids"]
        assert len(pieces) > 1
        wanted = table[pieces].mean(0)
        torch.testing.assert_close(network.get_input_embeddings().weight[row], wanted)
    assert torch.equal(network.get_input_embeddings().weight[: len(own)], table)
