"""Guesses change nothing: what is written is what a slow loop without a cache writes, and as often as it is probable."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import UsageError
from c2s.common.seeds import cell_keys, mix64
from c2s.constraints.trie import GeneSentence, TokenTrie
from c2s.decoding import kernels
from c2s.decoding.engine import TransformersEngine
from c2s.decoding.sampling import Sampling, choose, uniform_numbers
from c2s.decoding.slots import SlotNetwork
from c2s.tokens.tokenizer import CellTokenizer, load_tokenizer

ARCHITECTURES = ["gpt_neox", "gpt2", "llama", "gemma2"]
GENES = GeneVocabulary("IFI6 IFI6X INS INSR INS-IGF2 RPL3 RPL31 RPL32 HLA-A HLA-B HLA-DRA".split())
TEXTS = ["Cell:", "Write the genes of a cell, highest first:", "Genes of one delta cell:"]


def constraint_of(tokenizer, n_genes, **kwargs):
    trie = TokenTrie([tokenizer.gene_pieces(g) for g in range(len(tokenizer.vocabulary))])
    return GeneSentence(trie, n_genes, tokenizer.eos_id, **kwargs)


def write(model, prompts, constraint, sampling, guesses=4, batch_size=None):
    """Return the sentences, and what they took."""
    engine = TransformersEngine(model, batch_size, guesses)
    states = engine.generate(prompts, constraint, sampling)
    assert all(state.done for state in states)
    return [tuple(state.genes) for state in states], engine.passes


# --- the slow loop ------------------------------------------------------------------------------


def mixed(key, counter):
    return mix64(
        np.array([(int(key) + (int(counter) + 1) * 0x9E3779B97F4A7C15) % 2**64], np.uint64)
    )[0]


def slow_sentence(model, prompt, constraint, sampling, key):
    """Write one sentence with a full pass for each token, without cache, mask or compiled code."""
    return tuple(slow_answer(model, prompt, constraint, sampling, key)[0].genes)


def slow_answer(model, prompt, constraint, sampling, key):
    """Return the state and the tokens of such a sentence."""
    state, path = constraint.start(), []
    while not state.done:
        allowed = state.allowed()
        with torch.no_grad():
            ids = torch.tensor([[*map(int, prompt), *path]])
            logits = model.network(ids, use_cache=False).logits[0, -1]
        masked = torch.full_like(logits, -torch.inf)
        masked[allowed] = logits[allowed]
        inside = len(path) and not is_whole(constraint, state, path)
        temperature = temperature_of(sampling, len(state.genes), constraint.n_genes)
        if temperature > 0 and inside and len(allowed) > 1:
            p = (masked.double() / temperature).softmax(-1).numpy()
            columns = np.searchsorted(constraint.tokens, allowed)
            bits = [int(mixed(mixed(key, len(path)), c)) >> 11 for c in columns]
            waits = -np.log((np.array(bits) + 0.5) * 2.0**-53)
            token = int(allowed[np.argmin(waits / p[allowed])])
        else:
            uniform = uniform_numbers(np.array([key]), len(path))
            at_rank = Sampling(temperature, sampling.top_k, sampling.top_p)
            token = int(choose(masked[None], at_rank, uniform))
        path.append(token)
        state.advance(token)
    return state, path


def temperature_of(sampling, rank, n_genes):
    """Return the temperature while the gene of a rank is written, between the ends in equal steps."""
    if not isinstance(sampling.temperature, tuple):
        return sampling.temperature
    return float(np.linspace(*sampling.temperature, n_genes)[rank])


def is_whole(constraint, state, path):
    """Whether what is written so far is nothing but the complete genes of a state."""
    return constraint.n_tokens_of(state.genes) == len(path)


class TestAgainstTheSlowLoop:
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    @pytest.mark.parametrize("mode", ["text", "genes"])
    def test_the_same_sentences(self, architecture, mode, make_tokenizer, make_model):
        model = make_model(make_tokenizer(GENES, mode), architecture, spread=0.4)
        prompts = [model.tokenizer.encode([text]) for text in TEXTS]
        constraint = constraint_of(model.tokenizer, 6)
        for sampling in (
            Sampling(seed=3),
            Sampling(temperature=0.6, seed=4),
            Sampling(0),
            Sampling((1.5, 0.2)),
            Sampling((0, 1)),
        ):
            keys = cell_keys([str(i) for i in range(len(prompts))], sampling.seed)
            wanted = [
                slow_sentence(model, p, constraint, sampling, key)
                for p, key in zip(prompts, keys, strict=True)
            ]
            for guesses in (0, 1, 6):
                assert write(model, prompts, constraint, sampling, guesses)[0] == wanted

    @pytest.mark.parametrize("mode", ["text", "genes"])
    def test_the_same_sentences_with_required_genes(self, mode, make_tokenizer, make_model):
        """Of the six genes four are required, prefixes of others among them; guesses are as free as without."""
        model = make_model(make_tokenizer(GENES, mode), spread=0.4)
        prompts = [model.tokenizer.encode([text]) for text in TEXTS * 2]
        required = GENES.columns(["IFI6", "INSR", "RPL3", "HLA-B"]).tolist()
        constraint = constraint_of(model.tokenizer, 6, required=required)
        for sampling in (Sampling(seed=3), Sampling((0.3, 2.0), seed=5), Sampling(0)):
            keys = cell_keys([str(i) for i in range(len(prompts))], sampling.seed)
            wanted = [
                slow_sentence(model, p, constraint, sampling, key)
                for p, key in zip(prompts, keys, strict=True)
            ]
            assert all(set(required) <= set(sentence) for sentence in wanted)
            for guesses in (0, 1, 6):
                assert write(model, prompts, constraint, sampling, guesses)[0] == wanted

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_a_network_with_its_own_cache(
        self, architecture, make_tokenizer, make_model, monkeypatch
    ):
        model = make_model(make_tokenizer(GENES, "text"), architecture)
        prompts = [model.tokenizer.encode([text]) for text in TEXTS * 3]
        constraint = constraint_of(model.tokenizer, 5)
        wanted, _ = write(model, prompts, constraint, Sampling(seed=1))
        monkeypatch.setattr("c2s.decoding.slots.takes_slots", lambda network: False)
        assert write(model, prompts, constraint, Sampling(seed=1))[0] == wanted

    def test_a_network_that_is_spread_over_devices(self, make_tokenizer, make_model, tmp_path):
        """Where memory is short the head is the first that `device_map="auto"` leaves on the disk."""
        from accelerate import dispatch_model

        model = make_model(make_tokenizer(GENES, "text"), "llama")
        prompts = [model.tokenizer.encode([text]) for text in TEXTS]
        constraint = constraint_of(model.tokenizer, 5)
        wanted, _ = write(model, prompts, constraint, Sampling(seed=1))
        dispatch_model(
            model.network, {"model": "cpu", "lm_head": "disk"}, "cpu", offload_dir=tmp_path
        )
        assert model.network.lm_head.weight.device.type == "meta"
        assert write(model, prompts, constraint, Sampling(seed=1))[0] == wanted

    def test_finished_sentences_keep_nothing_that_only_writing_needs(
        self, make_tokenizer, make_model
    ):
        model = make_model(make_tokenizer(GENES, "text"))
        prompts = [model.tokenizer.encode([text]) for text in TEXTS]
        states = TransformersEngine(model).generate(
            prompts, constraint_of(model.tokenizer, 5), Sampling()
        )
        kept = states[0]._states
        assert (kept.used.base, kept.used.size, kept.taken.base) == (None, 0, None)


class TestSlots:
    @torch.inference_mode()
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_logits_are_those_of_full_passes_whatever_was_taken_back(
        self, architecture, make_tokenizer, make_model
    ):
        """Rows of different lengths are fed different numbers of tokens, and keep only some of them."""
        model = make_model(make_tokenizer(GENES, "text"), architecture)
        rng = np.random.default_rng(0)
        tokens = np.sort(rng.choice(300, 40, replace=False)) + 2
        network = SlotNetwork(model.network, tokens)
        cache = network.new_cache()
        kept = [list(rng.integers(2, 300, n)) for n in (3, 12, 7, 1)]
        lengths = np.zeros(4, np.int64)
        new = [list(row) for row in kept]
        for turn in range(12):
            n_fed = np.array([len(row) for row in new])
            wanted = np.arange(n_fed.max()) < n_fed[:, None]
            ids = np.full(wanted.shape, 5)
            ids[wanted] = [t for row in new for t in row]
            found = network.logits(ids, n_fed, lengths, cache, wanted)
            for row, part in enumerate(np.split(found, np.cumsum(n_fed)[:-1])):
                whole = kept[row][: lengths[row]] + new[row]
                full = model.network(torch.tensor([whole]), use_cache=False).logits[0]
                full = full[lengths[row] :, tokens]
                np.testing.assert_allclose(part, full.numpy(), atol=1e-5, rtol=1e-5)
            n_kept = n_fed if turn == 0 else rng.integers(1, n_fed + 1)
            for row in range(len(kept)):
                kept[row] = kept[row][: lengths[row]] + new[row][: n_kept[row]]
            lengths = lengths + n_kept
            if turn == 6:
                rows = [3, 0, 1]
                cache.keep(torch.tensor(rows))
                kept, lengths = [kept[r] for r in rows], lengths[rows]
            new = [list(rng.integers(2, 300, n)) for n in rng.integers(1, 5, len(kept))]

    def test_slots_are_added_where_they_run_out(self, make_tokenizer, make_model, monkeypatch):
        model = make_model(make_tokenizer(GENES, "text"))
        prompts = [model.tokenizer.encode([text]) for text in TEXTS]
        constraint = constraint_of(model.tokenizer, 9)
        wanted, _ = write(model, prompts, constraint, Sampling())
        monkeypatch.setattr("c2s.decoding.slots._MORE_SLOTS", 1)
        assert write(model, prompts, constraint, Sampling())[0] == wanted


# --- distributions ------------------------------------------------------------------------------


def exact(model, prompt, constraint):
    """Return all sentences, and the probability of each under the constrained model."""
    probabilities = {}

    def follow(path, p):
        state = constraint.start()
        for token in path:
            state.advance(token)
        if state.done:
            genes = tuple(state.genes)
            probabilities[genes] = probabilities.get(genes, 0) + p
            return
        allowed = state.allowed()
        with torch.no_grad():
            logits = model.network(torch.tensor([[*map(int, prompt), *path]])).logits[0, -1]
        for token, q in zip(allowed, logits[allowed].double().softmax(-1), strict=True):
            follow([*path, int(token)], p * float(q))

    follow([], 1.0)
    return probabilities


class TestDistribution:
    @pytest.mark.parametrize(("guesses", "required"), [(0, []), (8, []), (8, [1])])
    def test_sentences_come_as_often_as_they_are_probable(
        self, guesses, required, make_tokenizer, make_model
    ):
        genes = GeneVocabulary(["IFI6", "IFI6X", "INS", "INSR", "RPL3"])
        model = make_model(make_tokenizer(genes, "text"), spread=0.35)
        prompt = model.tokenizer.encode(["Write 2 genes:"])
        constraint = constraint_of(model.tokenizer, 2, required=required)
        wanted = exact(model, prompt, constraint)
        assert set(wanted) == {s for s in permutations(range(5), 2) if {*required} <= {*s}}
        assert sum(wanted.values()) == pytest.approx(1)
        n = 8000
        drawn, _ = write(model, [prompt] * n, constraint, Sampling(seed=1), guesses, n // 4)
        common = [s for s in wanted if wanted[s] * n >= 5]
        rare = 1 - sum(wanted[s] for s in common)
        found = [drawn.count(s) for s in common]
        expected = [wanted[s] * n for s in common]
        if rare * n > 1:
            found, expected = [*found, n - sum(found)], [*expected, rare * n]
        assert len(common) > (4 if required else 8)
        expected = np.array(expected) * sum(found) / sum(expected)
        assert chisquare(found, expected).pvalue > 1e-3

    @pytest.mark.parametrize(
        "sampling",
        [
            Sampling(seed=7),
            Sampling(temperature=0, seed=7),
            Sampling(temperature=1.7, top_k=9, seed=8),
            Sampling(top_p=0.8, seed=9),
            Sampling(top_k=20, top_p=0.9, temperature=0.5),
        ],
        ids=str,
    )
    def test_guesses_and_batches_decide_nothing(
        self, sampling, cut_genes, make_tokenizer, make_model
    ):
        model = make_model(make_tokenizer(cut_genes, "text"), spread=0.3)
        prompts = [model.tokenizer.encode([text]) for text in TEXTS * 3]
        plain = constraint_of(model.tokenizer, 12)
        wanted, _ = write(model, prompts, plain, sampling, guesses=0, batch_size=1)
        frequencies = np.random.default_rng(0).integers(0, 50, len(cut_genes))
        guided = constraint_of(model.tokenizer, 12, frequencies=frequencies)
        for constraint in (plain, guided):
            for guesses, batch_size in ((0, 4), (1, 3), (3, 1), (9, None)):
                assert write(model, prompts, constraint, sampling, guesses, batch_size)[0] == wanted

    def test_a_real_vocabulary(self, real_tokenizers, pancreas, make_card):
        """20,125 genes of three or four tokens: guesses save passes and change nothing."""
        import transformers

        from c2s.models.directory import Model

        words = GeneVocabulary.from_var(pancreas.var)
        tokenizer = CellTokenizer(load_tokenizer(real_tokenizers / "gpt-neox"), words, "text")
        config = transformers.GPTNeoXConfig(
            vocab_size=len(tokenizer.backend), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=1024,
        )  # fmt: skip
        torch.manual_seed(0)
        network = transformers.AutoModelForCausalLM.from_config(config).eval()
        model = Model(network, tokenizer, make_card(tokenizer))
        prompts = [tokenizer.encode([text]) for text in TEXTS * 4]
        constraint = constraint_of(tokenizer, 40)
        wanted, without = write(model, prompts, constraint, Sampling(seed=1), guesses=0)
        found, passes = write(model, prompts, constraint, Sampling(seed=1))
        assert found == wanted
        assert all(len(set(sentence)) == 40 for sentence in found)
        n_tokens = sum(len(tokenizer.gene_tokens.gather(np.array(s))) for s in found)
        # The first token comes from the prompt; the end is written only where a gene is the start of others.
        assert n_tokens - 12 <= without.passes <= n_tokens
        assert passes.genes == without.genes == 12 * 40
        assert passes.passes < 0.8 * without.passes


class TestPasses:
    def test_one_a_gene_where_a_gene_is_a_token(self, make_tokenizer, make_model):
        model = make_model(make_tokenizer(GENES, "genes"))
        prompts = [model.tokenizer.encode([text]) for text in TEXTS]
        _, passes = write(model, prompts, constraint_of(model.tokenizer, 8), Sampling())
        assert (passes.genes, passes.passes, passes.fed) == (24, 21, 21)

    def test_a_sure_network_needs_one_a_gene_once_it_is_known(self, make_tokenizer, make_model):
        """The most probable sentence is written again and again: soon every guess is right."""
        genes = GeneVocabulary("IFNA1 IFNA2 RPL31 RPL32 HLA-DRA HLA-DQB".split())
        model = make_model(make_tokenizer(genes, "text"))
        prompt = model.tokenizer.encode(["Cell:"])
        constraint = constraint_of(model.tokenizer, 1)
        sampling = Sampling(temperature=0)
        sentences, first = write(model, [prompt], constraint, sampling, 20)
        _, all_ = write(model, [prompt] * 50, constraint, sampling, 20, batch_size=1)
        n_tokens = len(model.tokenizer.gene_pieces(sentences[0][0]))
        assert n_tokens > 3
        assert first.passes <= n_tokens - 1
        assert all_.passes <= 50 + n_tokens

    def test_frequencies_make_better_guesses(self, make_tokenizer, make_model):
        genes = GeneVocabulary([f"RPL{i}" for i in range(10, 40)])
        model = make_model(make_tokenizer(genes, "text"), spread=0.3)
        prompts = [model.tokenizer.encode(["Cell:"])] * 12
        plain = constraint_of(model.tokenizer, 3)
        drawn, _ = write(model, prompts * 10, plain, Sampling(seed=5))
        often = np.bincount([g for s in drawn for g in s], minlength=30)
        guided = constraint_of(model.tokenizer, 3, frequencies=often)
        passes = [write(model, prompts, c, Sampling(seed=6))[1].passes for c in (plain, guided)]
        assert passes[1] < passes[0]

    def test_a_cpu_guesses_two_tokens_by_default(self, make_tokenizer, make_model):
        model = make_model(make_tokenizer(GENES, "text"))
        assert TransformersEngine(model).guesses == 2

    def test_fewer_than_no_guesses_are_refused(self, make_tokenizer, make_model):
        with pytest.raises(UsageError, match="guesses=-1 is below 0"):
            TransformersEngine(make_model(make_tokenizer(GENES, "genes")), guesses=-1)


# --- the compiled draws -------------------------------------------------------------------------


@given(st.integers(0, 2**64 - 1), st.integers(0, 5000))
def test_the_number_of_a_step_is_that_of_numpy(key, step):
    found = kernels.uniform_number(np.uint64(key), step)
    assert found == uniform_numbers(np.array([key], np.uint64), step)[0]


@settings(deadline=None, max_examples=200)
@given(
    logits=st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=12),
    key=st.integers(0, 2**64 - 1),
    temperature=st.sampled_from([0, 0.3, 1, 4]),
    top_k=st.integers(0, 13),
    top_p=st.sampled_from([1e-6, 0.3, 0.7, 0.95, 1]),
    data=st.data(),
)
def test_at_the_start_of_a_gene_the_compiled_draw_is_choose(
    logits, key, temperature, top_k, top_p, data
):
    n = data.draw(st.integers(1, len(logits)))
    columns = np.array(sorted(data.draw(st.permutations(range(len(logits))))[:n]))
    logits = np.array(logits, np.float32)
    masked = np.full(len(logits), -np.inf, np.float32)
    masked[columns] = logits[columns]
    # Where two are equal, or a cut falls on a rounded sum, either side may be right.
    if len(np.unique(masked[columns])) < n:
        return
    sampling = Sampling(temperature, min(top_k, n), top_p)
    key = np.uint64(key)
    wanted = int(
        choose(torch.from_numpy(masked)[None], sampling, uniform_numbers(np.array([key]), 5))
    )
    room = np.empty(n)
    found = kernels.choose_column(
        logits, columns, n, float(temperature), sampling.top_k, float(top_p), key, 5, False, room
    )
    assert found == wanted


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.5), Sampling(top_k=3), Sampling(top_p=0.7)]
)
def test_inside_a_gene_each_column_comes_as_often_as_its_share(sampling):
    logits = np.log(np.array([0.05, 0.3, 0.1, 0.35, 0.2])).astype(np.float32)
    columns, room, n = np.arange(5), np.empty(5), 20_000
    drawn = [
        kernels.choose_column(
            logits, columns, 5, float(sampling.temperature), sampling.top_k, float(sampling.top_p),
            np.uint64(key), 3, True, room,
        )
        for key in mix64(np.arange(n, dtype=np.uint64))
    ]  # fmt: skip
    middles = (np.arange(n) + 0.5) / n
    shares = choose(torch.from_numpy(logits).expand(n, -1), sampling, middles).numpy()
    wanted, found = np.bincount(shares, minlength=5), np.bincount(drawn, minlength=5)
    assert (found[wanted == 0] == 0).all()
    assert chisquare(found[wanted > 0], wanted[wanted > 0]).pvalue > 1e-3
