"""GGUF files become Hugging Face folders with the same weights, tokens and logits."""

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from c2s.common.errors import C2SWarning, InputError, UsageError
from c2s.models.directory import load_network
from c2s.models.gguf import import_gguf
from c2s.tokens.tokenizer import load_tokenizer

gguf = pytest.importorskip("gguf")

MERGES = [("Ġ", "I"), ("N", "S"), ("ĠI", "NS"), ("1", "2")]
HEADS, KV_HEADS = 4, 2


@pytest.fixture(scope="module")
def vocabulary():
    """Tokens of a byte-level BPE: the special ones, all bytes, and what is merged."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return ["<|endoftext|>", "<|im_start|>", *letters, *("".join(m) for m in MERGES)]


@pytest.fixture(scope="module")
def network(vocabulary):
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=128, rope_theta=5000.0,
        rms_norm_eps=1e-5, tie_word_embeddings=False, initializer_range=0.3, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    found = transformers.LlamaForCausalLM(config).eval()
    for name, parameter in found.named_parameters():
        if "norm" in name:  # ones would not tell one norm from another
            parameter.data += 0.1 * torch.randn_like(parameter)
    return found


def turned(weight, heads):
    """Rotary halves as llama.cpp has them: (halves, pairs) of each head become (pairs, halves)."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).transpose(0, 2, 1, 3).reshape(weight.shape)


NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_name(name):
    name = name.replace("model.layers.", "blk.")
    for ours, theirs in sorted(NAMES.items(), key=lambda pair: -len(pair[0])):
        name = name.replace(ours, theirs)
    return name


@pytest.fixture
def write(network, vocabulary, tmp_path):
    """Return a function that writes the network as llama.cpp's converter does."""

    def make(pre="smollm", broken=False, tokenizer=True):
        path, config = tmp_path / "tiny.gguf", network.config
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(KV_HEADS)
        writer.add_rope_freq_base(5000.0)
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_vocab_size(len(vocabulary))
        if tokenizer:
            writer.add_tokenizer_model("gpt2")
            writer.add_tokenizer_pre(pre)
            writer.add_token_list(vocabulary)
            writer.add_token_types([3, 3] + [1] * (len(vocabulary) - 2))
            writer.add_token_merges([" ".join(m) for m in MERGES])
            writer.add_bos_token_id(0)
            writer.add_eos_token_id(1)
        for name, weight in network.state_dict().items():
            values = weight.numpy().astype(np.float32)
            if "q_proj" in name or "k_proj" in name:
                values = turned(values, HEADS if "q_proj" in name else KV_HEADS)
            if broken and "down_proj" in name:
                values = np.full_like(values, np.nan)
            writer.add_tensor(gguf_name(name), np.ascontiguousarray(values))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return make


def expected_ids(vocabulary, text):
    """By the tokenizers library itself: digits by themselves, then as GPT-2."""
    backend = Backend(models.BPE({t: k for k, t in enumerate(vocabulary)}, MERGES))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return backend.encode(text).ids


def test_weights_logits_and_tokens_are_the_same(write, network, vocabulary, tmp_path):
    done = import_gguf(write(), tmp_path / "model")
    assert done == (tmp_path / "model", "llama", sum(p.numel() for p in network.parameters()), 128)
    again = load_network(tmp_path / "model")
    state, wanted = again.state_dict(), network.state_dict()
    assert state.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert torch.equal(state[name], weight), name
    tokenizer = load_tokenizer(tmp_path / "model")
    text = "Cell INS 1212 INS"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == expected_ids(vocabulary, text)
    assert vocabulary.index("ĠINS") in ids
    assert vocabulary.index("12") not in ids  # smollm: each digit by itself
    assert tokenizer.decode(ids) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1)
    with torch.no_grad():
        batch = torch.tensor([ids])
        torch.testing.assert_close(again(batch).logits, network(batch).logits, atol=1e-5, rtol=1e-5)


def test_as_gpt2_digits_stay_together(write, vocabulary, tmp_path):
    import_gguf(write("gpt-2"), tmp_path / "model")
    ids = load_tokenizer(tmp_path / "model")("12", add_special_tokens=False)["input_ids"]
    assert ids == [vocabulary.index("12")]


def test_a_way_of_splitting_that_is_not_known_is_said(write, tmp_path):
    with pytest.warns(C2SWarning, match="splits text into words as 'strange-bpe'"):
        import_gguf(write("strange-bpe"), tmp_path / "model")


class TestRefused:
    def test_weights_that_are_not_finite_leave_nothing(self, write, tmp_path):
        with pytest.raises(InputError, match="not finite"):
            import_gguf(write(broken=True), tmp_path / "model")
        assert not (tmp_path / "model").exists()

    def test_no_gguf_file(self, tmp_path):
        with pytest.raises(InputError, match="no such file"):
            import_gguf(tmp_path / "none.gguf", tmp_path / "model")
        (tmp_path / "text.gguf").write_text(
            "not a model at all, but long enough for a header\n" * 9
        )
        with pytest.raises(InputError, match=r"text.gguf: no GGUF file can be read"):
            import_gguf(tmp_path / "text.gguf", tmp_path / "model")

    def test_a_file_that_was_cut_off(self, write, tmp_path):
        path = write()
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match=r"tiny.gguf: "):
            import_gguf(path, tmp_path / "model")

    def test_a_file_without_a_tokenizer(self, write, tmp_path):
        with pytest.raises(InputError, match="holds no tokenizer"):
            import_gguf(write(tokenizer=False), tmp_path / "model")

    def test_a_folder_of_something_else(self, write, tmp_path):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "notes.txt").write_text("mine")
        with pytest.raises(UsageError, match=r"notes.txt"):
            import_gguf(write(), tmp_path / "model")

    def test_without_the_extra(self, write, tmp_path, monkeypatch):
        path = write()
        monkeypatch.setattr("c2s.models.gguf.find_spec", lambda name: None)
        with pytest.raises(UsageError, match=r"c2s-toolkit\[gguf\]"):
            import_gguf(path, tmp_path / "model")
