"""The model directory: what is saved comes back exactly, and what is damaged is named in one line."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from c2s.cells.inverse import RankExpressionModel
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import C2SError, C2SWarning, InputError, UsageError
from c2s.models.directory import (
    C2S_JSON,
    Model,
    ModelCard,
    attach,
    load_model,
    new_model,
    resolve_device,
)
from c2s.tasks.prompts import load_prompts

GENES = GeneVocabulary(["INS", "GCG", "SST", "PPY", "T", "HLA-A"])
LINE = RankExpressionModel(-0.7, 2.2, r2=0.8, n_cells=10).to_dict()


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer):
    return make_tokenizer(GENES, "genes")


@pytest.fixture(scope="module")
def saved(tokenizer, make_model, tmp_path_factory):
    """A model directory that tests copy before they damage it."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    make_model(tokenizer, card={"inverse": {"a": LINE, "b": {**LINE, "slope": -0.5}}}).save(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def logits(model):
    ids = model.tokenizer.encode(["Cell: ", np.array([0, 4, 2]), "\nCell type: beta"])
    with torch.no_grad():
        return model.network(torch.tensor(ids[None].astype(np.int64))).logits


def refused(path, error=InputError, **options):
    with pytest.raises(error) as caught:
        load_model(path, device="cpu", **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestRoundTrip:
    @pytest.mark.parametrize("mode", ["genes", "text"])
    @pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama", "gemma2"])
    def test_the_same_logits_and_card(
        self, architecture, mode, make_tokenizer, make_model, tmp_path
    ):
        card = {
            "prompts": "c2s",
            "inverse": {"pancreas": LINE},
            "preprocessing": {"target_sum": 1e4, "log_base": 10},
            "generation": {"temperature": 0.8},
            "training": {"cells": {"train": 3}},
        }
        model = make_model(make_tokenizer(GENES, mode), architecture, card=card)
        model.save(tmp_path / "model")
        again = load_model(tmp_path / "model", device="cpu")
        assert torch.equal(logits(again), logits(model))
        assert not again.network.training
        assert again.vocabulary == GENES
        assert again.source == str(tmp_path / "model")
        ours, theirs = model.card.model_dump(), again.card.model_dump()
        assert {**theirs, "versions": {}} == {**ours, "versions": {}}
        assert theirs["versions"]["torch"] == torch.__version__
        assert again.inverse.slope == -0.7
        # Weights are as readable as all else.
        modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
        assert len(modes) == 1

    def test_symbols_in_their_original_case(self, make_tokenizer, make_model, tmp_path):
        genes = GeneVocabulary(["Ins1", "Gcg", "C10orf10"])
        card = {"symbols": list(genes.symbols)}
        make_model(make_tokenizer(genes, "genes"), card=card).save(tmp_path / "model")
        again = load_model(tmp_path / "model", device="cpu").vocabulary
        assert again.words == ("INS1", "GCG", "C10ORF10")
        assert again.symbols == ("Ins1", "Gcg", "C10orf10")

    def test_a_wording_of_ones_own_travels_along(self, tokenizer, make_model, tmp_path):
        pack = tmp_path / "pack"
        pack.mkdir()
        (pack / "cell_type.toml").write_text(
            'prompts = ["{{x}} {cell_sentence}?"]\nresponse = "{cell_type}"'
        )
        wording = load_prompts(str(pack)).texts()
        make_model(tokenizer, card={"prompts": str(pack), "wording": wording}).save(
            tmp_path / "model"
        )
        shutil.rmtree(pack)
        load_prompts.cache_clear()
        asked = load_model(tmp_path / "model", device="cpu").prompts.wording("cell_type")
        assert asked.prompts[0].fill({"cell_sentence": "INS"}) == ["{x} INS?"]
        assert asked.response.fill({"cell_type": "beta"}) == [" beta"]

    def test_holds_no_pickle(self, saved):
        names = {path.name for path in saved.iterdir()}
        assert {C2S_JSON, "config.json", "model.safetensors", "tokenizer.json"} <= names
        assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]

    def test_is_quiet(self, saved, tmp_path, capfd):
        load_model(saved, device="cpu").save(tmp_path / "again")
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_in_another_precision(self, saved, dtype):
        model = load_model(saved, dtype=dtype, device="cpu")
        assert {p.dtype for p in model.network.parameters()} == {getattr(torch, dtype)}

    @pytest.mark.parametrize(
        ("device", "said"),
        [
            ("gpu", "device='gpu' is unknown; use 'cpu', 'cuda' or 'mps'"),
            ("cuda", "not there on this machine; use 'cpu'"),
        ],
    )
    def test_a_device_that_is_not_there_is_refused(self, saved, device, said, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(UsageError) as error:
            load_model(saved, device=device)
        assert said in str(error.value)

    @pytest.mark.parametrize(
        ("device", "said"),
        [
            ("cuda:2", "the last is 'cuda:1'"),
            ("cuda:x", "'cuda:x' is unknown"),
            ("cpu:1", "not there"),
        ],
    )
    def test_the_number_of_a_device_must_be_there(self, device, said, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert resolve_device("cuda:1") == "cuda:1"
        with pytest.raises(UsageError, match=said):
            resolve_device(device)

    @pytest.mark.parametrize("dtype", ["int8", "float", "cuda"])
    def test_an_unknown_precision_is_refused(self, saved, dtype):
        message = refused(saved, UsageError, dtype=dtype)
        assert message == f"dtype={dtype!r} is unknown; use 'float32', 'bfloat16' or 'float16'"

    def test_the_inverse_of_each_data_set(self, saved):
        model = load_model(saved, device="cpu")
        assert model.inverse.slope == -0.7
        assert model.card.restored_inverse(GENES, "b").slope == -0.5
        with pytest.raises(UsageError, match="no inverse for 'c'; it has: a, b"):
            model.card.restored_inverse(GENES, "c")

    def test_a_model_without_inverse_says_so(self, tokenizer, make_model):
        with pytest.raises(InputError, match="no line from rank to expression"):
            _ = make_model(tokenizer).inverse


def edit_json(name, **changes):
    def damage(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **changes}))

    return damage


def cut_file(name, size):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def remove(name):
    return lambda folder: (folder / name).unlink()


def drop_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pickle_only(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove(C2S_JSON), "a Hugging Face model without a gene vocabulary: c2s.json is missing"),
        (cut_file(C2S_JSON, 50), "c2s.json: not valid JSON"),
        (lambda f: (f / C2S_JSON).write_bytes(b"\xff\xfe{}"), "c2s.json: not valid JSON"),
        (lambda f: (f / C2S_JSON).write_text("[]"), "c2s.json: the gene vocabulary is missing"),
        (edit_json(C2S_JSON, vocabulary=[]), "c2s.json: the gene vocabulary is missing"),
        (edit_json(C2S_JSON, vocabulary=None), "c2s.json: the gene vocabulary is missing"),
        (edit_json(C2S_JSON, vocabulary=["INS", "INS"]), "copy: the gene vocabulary lists INS more than once"),
        (edit_json(C2S_JSON, symbols=["Ins"]), "copy: 1 symbols were given for 6 genes"),
        (edit_json(C2S_JSON, vocabulary=["INS", "KRT19"]), "copy: the tokenizer lacks 1 genes"),
        (edit_json(C2S_JSON, topk=3), "c2s.json: unknown field 'topk'; did you mean 'top_k'?"),
        (edit_json(C2S_JSON, top_k=0), "c2s.json: top_k = 0: input should be greater than or equal to 1"),
        (edit_json(C2S_JSON, mode="word"), "c2s.json: mode = 'word'"),
        (edit_json(C2S_JSON, format=2), "c2s.json: format = 2"),
        (edit_json(C2S_JSON, inverse={"a": {"slop": 1}}), "'a' is no line from rank to expression"),
        (edit_json(C2S_JSON, gene_frequencies=[1, 2]), "there must be 6 numbers, none below 0"),
        (edit_json(C2S_JSON, gene_frequencies=[1, 2, 3, 4, 5, -1]), "there must be 6 numbers, none below 0"),
        (remove("config.json"), "the weights cannot be read"),
        (cut_file("config.json", 30), "config.json' is not a valid JSON file"),
        (edit_json("config.json", model_type="no_such_type"), "the weights cannot be read"),
        (edit_json("config.json", num_hidden_layers=3), "12 weights are missing or of another shape"),
        (edit_json("config.json", hidden_size=16), "weights are missing or of another shape"),
        (edit_json("config.json", vocab_size=5), "(gpt_neox.embed_in.weight"),
        (remove("model.safetensors"), "the weights cannot be read"),
        (cut_file("model.safetensors", 0), "the weights cannot be read"),
        (cut_file("model.safetensors", 500), "the weights cannot be read"),
        (cut_file("model.safetensors", 20_000), "the weights cannot be read"),
        (drop_weight, "(gpt_neox.layers.1.mlp.dense_h_to_4h.weight)"),
        (pickle_only, "the weights cannot be read"),
        (remove("tokenizer.json"), "tokenizer.json: no tokenizer can be read there"),
        (cut_file("tokenizer.json", 300), "tokenizer.json: no tokenizer can be read there"),
    ],
)  # fmt: skip
def test_damage_is_named_in_one_line(copy, damage, said):
    damage(copy)
    message = refused(copy)
    assert said in message
    assert str(copy) in message


class TestPlaces:
    @pytest.mark.parametrize("place", ["nowhere", "./a/b", "x/y/z", "/no/such/folder", "~/no such"])
    def test_no_folder_there(self, place, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        assert refused(place) == f"{place}: no model directory there"

    def test_a_file_is_no_directory(self, saved):
        assert "no model directory there" in refused(saved / "config.json")

    def test_an_empty_folder(self, tmp_path):
        assert "no model: c2s.json is missing" in refused(tmp_path)

    def test_a_hub_id_is_loaded_without_pickles(self, saved, monkeypatch):
        asked = {}

        def download(model_id, **options):
            asked.update(options, model_id=model_id)
            return str(saved)

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        assert load_model("someone/something", device="cpu").source == "someone/something"
        assert {"*.bin", "*.pt", "*.pkl"} <= set(asked["ignore_patterns"])


class TestSaving:
    def test_replaces_a_model_whole(self, tokenizer, make_model, copy):
        (copy / "old.txt").write_text("of the old model")
        other = make_model(tokenizer, seed=5)
        other.save(copy)
        assert torch.equal(logits(load_model(copy, device="cpu")), logits(other))
        assert not (copy / "old.txt").exists()

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
    def test_a_failure_leaves_the_old_model_and_no_scraps(
        self, number, tokenizer, make_model, copy, monkeypatch
    ):
        before = logits(load_model(copy, device="cpu"))
        other = make_model(tokenizer, seed=5)

        def fail(*_):
            raise OSError(number, "simulated")

        monkeypatch.setattr(type(tokenizer), "save", fail)
        with pytest.raises(C2SError, match="no space left|no permission"):
            other.save(copy)
        assert torch.equal(logits(load_model(copy, device="cpu")), before)
        assert [path.name for path in copy.parent.iterdir()] == ["copy"]

    def test_into_an_empty_or_a_new_folder(self, tokenizer, make_model, tmp_path):
        (tmp_path / "empty").mkdir()
        for place in (tmp_path / "empty", tmp_path / "new" / "deeper"):
            make_model(tokenizer).save(place)
            assert load_model(place, device="cpu").card.top_k > 0

    def test_never_deletes_what_is_no_model(self, tokenizer, make_model, tmp_path):
        (tmp_path / "thesis.txt").write_text("years of work")
        with pytest.raises(UsageError, match="holds other files"):
            make_model(tokenizer).save(tmp_path)
        with pytest.raises(UsageError, match="is a file"):
            make_model(tokenizer).save(tmp_path / "thesis.txt")
        assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.fixture(scope="module")
def model(tokenizer, make_model):
    """A model that knows types which differ in little."""
    known = {"cell_type": ["t_cell", "Beta", "CD4-positive NK", "b cell", "B cell"], "organism": []}
    return make_model(tokenizer, card={"conditions": known})


class TestConditions:
    @pytest.mark.parametrize(
        ("given", "known"),
        [
            ("t_cell", "t_cell"),
            ("T cell", "t_cell"),
            (" t-cell ", "t_cell"),
            ("beta", "Beta"),
            ("cd4_positive nk", "CD4-positive NK"),
            ("b cell", "b cell"),
            ("B cell", "B cell"),
        ],
    )
    def test_is_written_as_the_model_knows_it(self, model, given, known):
        assert model.check_condition("cell_type", given, strict=True) == known

    def test_one_never_seen_is_named_and_kept(self, model):
        with pytest.warns(C2SWarning) as caught:
            assert model.check_condition("cell_type", "tcell") == "tcell"
        message = str(caught[0].message)
        assert "never saw cell_type 'tcell'; it knows: t_cell, Beta" in message
        assert "nearest: t_cell" in message

    def test_strict_refuses(self, model):
        with pytest.raises(UsageError, match="never saw cell_type 'kidney'; it knows: t_cell"):
            model.check_condition("cell_type", "kidney", strict=True)
        with pytest.raises(UsageError, match="it knows: none"):
            model.check_condition("tissue", "kidney", strict=True)

    def test_what_is_known_is_a_copy(self, model):
        model.known("cell_type").clear()
        assert model.known("cell_type")[0] == "t_cell"
        assert model.known("tissue") == []


@pytest.fixture(scope="module")
def card():
    return ModelCard(vocabulary=list(GENES.words), mode="genes", top_k=3)


class TestNewAndAttached:
    def test_the_seed_decides_the_weights_and_nothing_else_does(self, tokenizer, card):
        def weights(seed):
            return torch.cat(
                [p.flatten() for p in new_model("mini", tokenizer, card, seed).network.parameters()]
            )

        torch.manual_seed(3)
        first, state = weights(1), torch.get_rng_state()
        assert not torch.equal(first, weights(2))
        assert torch.equal(first, weights(1))
        assert torch.equal(state, torch.get_rng_state())

    def test_a_new_model_ends_and_pads_as_its_tokenizer(self, tokenizer, card):
        model = new_model("mini", tokenizer, card, 0)
        assert model.network.config.eos_token_id == tokenizer.eos_id
        assert model.network.config.pad_token_id == tokenizer.pad_id
        assert model.network.get_input_embeddings().weight.shape == (len(tokenizer.backend), 128)
        tied = sum(p.numel() for p in {id(p): p for p in model.network.parameters()}.values())
        assert model.n_parameters == tied
        assert f"{tied:,} parameters, 6 genes, top 3, tasks none" in repr(model)

    def test_any_hugging_face_model_takes_a_vocabulary(
        self, make_tokenizer, make_network, tmp_path
    ):
        tokenizer = make_tokenizer(GENES, "text")
        network = make_network("llama", tokenizer)
        network.save_pretrained(tmp_path)
        tokenizer.backend.save_pretrained(tmp_path)
        assert "without a gene vocabulary" in refused(tmp_path)
        model = attach(tmp_path, GENES, top_k=4)
        assert (model.card.mode, model.card.top_k) == ("text", 4)
        assert model.card.tasks == ["cell_type", "cond_cell"]
        assert model.vocabulary is GENES
        assert torch.equal(logits(model), logits(Model(network, tokenizer, model.card)))
        model.save(tmp_path / "with genes")
        assert torch.equal(logits(load_model(tmp_path / "with genes", device="cpu")), logits(model))

    def test_attach_takes_what_the_model_has_seen(self, make_tokenizer, make_network, tmp_path):
        tokenizer = make_tokenizer(GENES, "text")
        make_network("gpt2", tokenizer).save_pretrained(tmp_path)
        tokenizer.backend.save_pretrained(tmp_path)
        model = attach(
            tmp_path,
            GENES,
            tasks=["cell_type"],
            conditions={"cell_type": ("beta",)},
            dtype="bfloat16",
            device="cpu",
        )
        assert model.card.tasks == ["cell_type"]
        assert model.known("cell_type") == ["beta"]
        assert model.network.dtype == torch.bfloat16
        assert attach(tmp_path, GENES).known("organism") == ["Homo sapiens"]

    def test_attach_needs_a_model(self, tmp_path):
        with pytest.raises(InputError, match="no tokenizer can be read there"):
            attach(tmp_path, GENES)


class TestSaveCard:
    def test_writes_the_card_and_nothing_else(self, saved, tmp_path):
        folder = Path(shutil.copytree(saved, tmp_path / "model"))
        before = {p.name: p.read_bytes() for p in folder.iterdir()}
        model = load_model(folder, device="cpu")
        model.card = model.card.model_copy(update={"calibration": {"temperature": 2.0}})
        model.save_card()
        after = {p.name: p.read_bytes() for p in folder.iterdir()}
        assert {n for n in after if after[n] != before.get(n)} == {"c2s.json"}
        assert set(after) == set(before)
        assert load_model(folder, device="cpu").card == model.card

    def test_a_model_without_a_folder_is_saved_whole(self, tokenizer, make_model):
        with pytest.raises(UsageError, match="made here.* is not in a folder of its own"):
            make_model(tokenizer).save_card()


class TestPlacement:
    """On a processor: where layers go on several GPUs is accelerate's matter."""

    @pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}])
    def test_a_map_gives_the_same_model(self, model_folder, device_map):
        found = load_model(model_folder, device_map=device_map)
        wanted = load_model(model_folder, device="cpu")
        ids = torch.tensor([[3, 4, 5]])
        with torch.no_grad():
            assert torch.equal(found.network(ids).logits, wanted.network(ids).logits)
        assert not found.network.training

    def test_what_cannot_be(self, model_folder, monkeypatch):
        with pytest.raises(UsageError, match="device='cpu' and device_map='auto' say the same"):
            load_model(model_folder, device="cpu", device_map="auto")
        with pytest.raises(UsageError, match="quantize='8bit' is unknown; use '4bit'"):
            load_model(model_folder, quantize="8bit")
        monkeypatch.setattr("c2s.models.weights.find_spec", lambda name: None)
        with pytest.raises(
            UsageError, match=r"bitsandbytes, .* pip install 'c2s-toolkit\[quant\]'"
        ):
            load_model(model_folder, quantize="4bit")
        with pytest.raises(InputError, match="the weights cannot be read"):
            load_model(model_folder, device_map="nowhere")

    def test_how_four_bits_are_asked_for(self, model_folder, monkeypatch):
        """The library itself is not needed to ask for it."""
        import transformers

        asked = {}

        def loaded(folder, **options):
            asked.update(options)
            raise OSError("no such library")

        monkeypatch.setattr("c2s.models.weights.find_spec", lambda name: name)
        monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", loaded)
        with pytest.raises(InputError, match="no such library"):
            load_model(model_folder, quantize="4bit", device="cpu")
        config = asked["quantization_config"]
        assert (config.load_in_4bit, config.bnb_4bit_quant_type) == (True, "nf4")
        assert asked["device_map"] == {"": "cpu"}


class TestWithoutWeights:
    def test_all_but_the_network(self, saved):
        whole, model = (load_model(saved, device="cpu", weights=w) for w in (True, False))
        assert (whole.has_network, model.has_network) == (True, False)
        assert (model.card, model.source) == (whole.card, whole.source)
        assert model.files.folder == saved
        assert model.files.dtype is None
        assert "without weights" in repr(model)
        with pytest.raises(UsageError, match="opened without its weights"):
            _ = model.network

    def test_genes_that_it_cannot_take_are_refused_before_they_are_read(self, copy):
        (copy / "model.safetensors").unlink()
        assert "a vocabulary of its own (6 genes)" in refused(copy, UsageError, genes=["INS"])

    def test_the_weights_are_not_read(self, copy):
        (copy / "model.safetensors").unlink()
        assert load_model(copy, weights=False, dtype="bfloat16").files.dtype == "bfloat16"
        assert "unknown" in refused(copy, UsageError, weights=False, dtype="int3")
