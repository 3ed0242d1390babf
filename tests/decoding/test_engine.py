"""The engine against plain full forward passes: scores, distributions of what is generated, embeddings."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError
from c2s.constraints.answers import AnswerTree
from c2s.constraints.trie import GeneSentence, OneOf, TokenTrie
from c2s.decoding.engine import TransformersEngine
from c2s.decoding.sampling import Sampling, choose
from c2s.models.directory import Model

ARCHITECTURES = ["gpt_neox", "gpt2", "llama", "gemma2"]
# Genes that are the beginning of others, so that in "text" mode the end of a gene is not known at once.
GENES = GeneVocabulary(["IFI6", "IFI6X", "INS", "INSR"])
LABELS = ["beta", "beta cell", "delta", "b", "acinar cell of the exocrine pancreas", "d"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request, make_model, make_tokenizer):
    """A tiny random model whose tokenizer has one token a gene."""
    return make_model(make_tokenizer(GENES, "genes"), request.param)


@pytest.fixture(scope="module")
def prompts(model):
    """Prompts of 3 to 60 tokens, the longest longer than Gemma's window."""
    texts = [
        "Cell:",
        "Here are the most expressed genes of a cell, highest first, of the pancreas",
        "Genes",
        "Which cell type is it? Answer:",
        "Name the cell type that expresses these genes",
    ]
    ids = [model.tokenizer.encode([text]) for text in texts]
    assert len({len(p) for p in ids}) == len(ids)
    assert max(map(len, ids)) > 16
    return ids


@pytest.fixture(scope="module")
def answers(model):
    return [[*model.tokenizer.encode([f" {x}"]).tolist(), model.tokenizer.eos_id] for x in LABELS]


def log_probabilities(model, ids):
    """One full forward pass: log p of each next token. No cache, no padding. float64, (length, vocabulary)."""
    with torch.no_grad():
        out = model.network(torch.tensor([list(map(int, ids))]), use_cache=False)
    return out.logits[0].double().log_softmax(-1).numpy()


def naive_score(model, prompt, answer):
    steps = log_probabilities(model, [*prompt, *answer])
    return sum(steps[len(prompt) - 1 + i, token] for i, token in enumerate(answer))


class TestScore:
    def test_is_the_sum_over_the_tokens_of_one_full_pass(self, model, prompts, answers):
        found = TransformersEngine(model).score(prompts, answers)
        wanted = [[naive_score(model, p, a) for a in answers] for p in prompts]
        assert found.shape == (len(prompts), len(answers))
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, wanted, atol=2e-5)
        assert np.std(wanted) > 1  # the model is not so even that anything would pass

    @pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
    def test_does_not_depend_on_the_batch(self, model, prompts, answers, batch_size):
        alone = TransformersEngine(model).score(prompts, answers)
        other = [prompts[i] for i in (4, 1, 3, 0, 2)]
        found = TransformersEngine(model, batch_size).score(other, answers)
        np.testing.assert_allclose(found, alone[[4, 1, 3, 0, 2]], atol=2e-5)

    def test_does_not_depend_on_the_other_answers(self, model, prompts, answers):
        together = TransformersEngine(model).score(prompts, answers)
        for j, answer in enumerate(answers):
            alone = TransformersEngine(model).score(prompts, [answer])
            np.testing.assert_allclose(alone[:, 0], together[:, j], atol=2e-5)

    @pytest.mark.parametrize("batch_size", [1, 3, 100])
    def test_what_prompts_begin_with_alike_is_read_once(
        self, model, prompts, answers, batch_size, monkeypatch
    ):
        """Variants that lack a token each, the whole, a beginning of it, and one with nothing in common."""
        import c2s.decoding.prompt_cache as prompt_cache

        whole = prompts[1]
        variants = [np.delete(whole, i) for i in range(3, len(whole), 4)]
        variants += [whole, whole[:-3], whole[: len(whole) // 2], prompts[0]]
        wanted = TransformersEngine(model).score(variants, answers)
        fed, read = [], prompt_cache._read

        def count(network, ids, cache):
            fed.append(ids.numel())
            read(network, ids, cache)

        monkeypatch.setattr(prompt_cache, "_read", count)
        found = TransformersEngine(model, batch_size).score(variants, answers, alike=True)
        np.testing.assert_allclose(found, wanted, atol=2e-5)
        if batch_size == 3:  # some tokens were spared
            assert sum(fed) < sum(len(v) - 1 for v in variants)

    @pytest.mark.parametrize("at_once", [0, 1, 2, 4])
    @pytest.mark.parametrize("budget", ["_CACHE_BUDGET", "_LOGITS_BUDGET", "_CPU_TOKENS"])
    def test_little_memory_changes_nothing(
        self, model, prompts, answers, at_once, budget, monkeypatch
    ):
        """Where prompts do not fit, they are taken in turns."""
        wanted = TransformersEngine(model).score(prompts, answers)
        engine, done = TransformersEngine(model), []
        n_rows = len(AnswerTree(answers))
        tokens = max(map(len, prompts)) + n_rows
        one = {
            "_CACHE_BUDGET": tokens * engine._cache_bytes(),
            "_LOGITS_BUDGET": 4 * n_rows * model.network.config.vocab_size,
            "_CPU_TOKENS": tokens,
        }[budget]
        monkeypatch.setattr(f"c2s.decoding.engine.{budget}", at_once * one)
        np.testing.assert_allclose(engine.score(prompts, answers, done.append), wanted, atol=2e-5)
        assert max(done) == max(1, at_once)

    @pytest.mark.parametrize("most", [1, 2, 5, 9])
    def test_long_lists_are_scored_in_several_trees(
        self, model, prompts, answers, most, monkeypatch
    ):
        wanted = TransformersEngine(model).score(prompts, answers)
        monkeypatch.setattr("c2s.decoding.engine._TREE_ROWS", most)
        found = TransformersEngine(model).score(prompts, answers)
        np.testing.assert_allclose(found, wanted, atol=2e-5)

    def test_each_alone_to_1e_5_at_the_usual_size_of_weights(self, make_tokenizer, make_model):
        """The wide weights of the other tests multiply rounding."""
        for architecture in ARCHITECTURES:
            model = make_model(make_tokenizer(GENES, "text"), architecture, spread=0.08)
            prompts = [
                model.tokenizer.encode([t]) for t in ("Cell:", "Which cell type is it? " * 4)
            ]
            answers = [[*model.tokenizer.encode([f" {x}"]).tolist(), 0] for x in LABELS]
            found = TransformersEngine(model).score(prompts, answers)
            wanted = [[naive_score(model, p, a) for a in answers] for p in prompts]
            np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)

    def test_prompts_of_one_token(self, model, prompts, answers):
        short = [np.array([7]), np.array([9])]
        for asked in (short, [*short, *prompts]):
            found = TransformersEngine(model).score(asked, answers)
            wanted = [[naive_score(model, p, a) for a in answers] for p in asked]
            np.testing.assert_allclose(found, wanted, atol=2e-5)

    def test_sliding_attention_in_every_layer(self, make_tokenizer, make_card):
        """Mistral's layers are of one kind, so the mask is no dictionary; every answer crosses the window."""
        import transformers

        tokenizer = make_tokenizer(GENES, "text")
        config = transformers.MistralConfig(
            vocab_size=len(tokenizer.backend), hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, intermediate_size=64, sliding_window=6, initializer_range=0.3,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = transformers.AutoModelForCausalLM.from_config(config).eval()
        model = Model(network, tokenizer, make_card(tokenizer))
        prompts = [np.arange(5, 5 + n) for n in (2, 5, 17, 30)]
        answers = [[*tokenizer.encode([f" {x}"]).tolist(), tokenizer.eos_id] for x in LABELS]
        found = TransformersEngine(model).score(prompts, answers)
        wanted = [[naive_score(model, p, a) for a in answers] for p in prompts]
        np.testing.assert_allclose(found, wanted, atol=2e-5)

    def test_the_last_layer_is_not_run_for_the_prompt(self, model, prompts):
        from c2s.decoding.prompt_cache import read_prompts

        seen = []
        layers = next(
            m
            for m in model.network.base_model.children()
            if isinstance(m, torch.nn.ModuleList) and len(m) == 2
        )
        hooks = [
            layer.register_forward_hook(lambda *a, i=i: seen.append(i))
            for i, layer in enumerate(layers)
        ]
        ids = torch.from_numpy(prompts[0])[None]
        with torch.no_grad():
            cache = read_prompts(model.network, ids)
            whole = model.network(
                ids, use_cache=True, past_key_values=DynamicCache()
            ).past_key_values
        for hook in hooks:
            hook.remove()
        assert seen == [0, 0, 1]
        for ours, theirs in zip(cache.layers, whole.layers, strict=True):
            torch.testing.assert_close(ours.keys, theirs.keys)
            torch.testing.assert_close(ours.values, theirs.values)

    def test_layers_of_another_kind_are_refused(self, make_tokenizer, make_model):
        model = make_model(make_tokenizer(GENES, "genes"), "gemma2")
        model.network.config.layer_types = ["linear_attention", "full_attention"]
        with pytest.raises(UsageError, match="layers of linear_attention; full and sliding"):
            TransformersEngine(model).score([np.array([5, 6])], [[5]])

    def test_the_same_answer_twice_is_refused(self, make_tokenizer, make_model):
        engine = TransformersEngine(make_model(make_tokenizer(GENES, "genes")))
        with pytest.raises(InputError, match="answer 2 has the same tokens"):
            engine.score([np.array([5, 6])], [[5, 0], [6, 0], [5, 0]])

    def test_answers_of_one_token(self, model, prompts):
        found = TransformersEngine(model).score(prompts, [[5], [7]])
        wanted = [log_probabilities(model, p)[-1, [5, 7]] for p in prompts]
        np.testing.assert_allclose(found, wanted, atol=2e-5)

    def test_all_answers_of_one_step_sum_to_one(self, model, prompts):
        every = [[token] for token in range(len(model.tokenizer.backend))]
        found = TransformersEngine(model).score(prompts[:2], every)
        np.testing.assert_allclose(np.exp(found).sum(1), 1, atol=1e-5)


class TestGradients:
    def test_a_network_of_which_parts_are_on_the_disk(self, make_tokenizer, make_model, tmp_path):
        from accelerate import dispatch_model

        model = make_model(make_tokenizer(GENES, "text"), "llama")
        prompts, answers = [model.tokenizer.encode(["Cell: INS"])], [[5, 6], [7]]
        engine = TransformersEngine(model)
        wanted = engine.score(prompts, answers)
        dispatch_model(
            model.network, {"model": "cpu", "lm_head": "disk"}, "cpu", offload_dir=tmp_path
        )
        np.testing.assert_allclose(engine.score(prompts, answers), wanted, rtol=0, atol=1e-5)
        with pytest.raises(UsageError, match=r"parts are not on a device .*'leave_one_out'"):
            engine.input_gradients(prompts, answers, np.array([0]))


class TestEmbed:
    def test_is_the_mean_of_the_last_hidden_states(self, model, prompts):
        found = TransformersEngine(model).embed(prompts)
        with torch.no_grad():
            wanted = [
                model.network(torch.tensor([p.tolist()]), output_hidden_states=True)
                .hidden_states[-1][0]
                .mean(0)
                for p in prompts
            ]
        assert found.dtype == np.float32
        assert found.shape == (len(prompts), model.network.config.hidden_size)
        np.testing.assert_allclose(found, np.stack(wanted), atol=1e-5)

    @pytest.mark.parametrize("batch_size", [1, 2, 3])
    def test_padding_does_not_enter(self, model, prompts, batch_size):
        together = TransformersEngine(model).embed(prompts)
        found = TransformersEngine(model, batch_size).embed(prompts[::-1])[::-1]
        np.testing.assert_allclose(found, together, atol=1e-5)
        assert np.abs(np.diff(together, axis=0)).max() > 0.01

    @pytest.mark.parametrize("batch_size", [None, 1])
    def test_a_mean_over_some_tokens(self, model, prompts, batch_size):
        rng = np.random.default_rng(0)
        over = [rng.permutation(np.arange(len(p)) % 3 == 0) for p in prompts]
        found = TransformersEngine(model, batch_size).embed(prompts, over=over)
        with torch.no_grad():
            wanted = [
                model.network(torch.tensor([p.tolist()]), output_hidden_states=True)
                .hidden_states[-1][0, torch.from_numpy(some)]
                .mean(0)
                for p, some in zip(prompts, over, strict=True)
            ]
        np.testing.assert_allclose(found, np.stack(wanted), atol=1e-5)


def brute_force(model, prompt, sequences):
    """Return the probability of each token sequence where, at each step, only what leads to one is allowed."""
    sequences = [tuple(s) for s in sequences]
    result = []
    for sequence in sequences:
        steps = log_probabilities(model, [*prompt, *sequence])
        p = 1.0
        for i, token in enumerate(sequence):
            allowed = sorted({s[i] for s in sequences if s[:i] == sequence[:i]})
            step = np.exp(steps[len(prompt) - 1 + i])
            p *= step[token] / step[allowed].sum()
        result.append(p)
    return np.array(result)


def draw(model, prompts, n_genes, sampling, batch_size=None):
    tokenizer = model.tokenizer
    trie = TokenTrie([tokenizer.gene_pieces(g) for g in range(len(tokenizer.vocabulary))])
    constraint = GeneSentence(trie, n_genes, tokenizer.eos_id)
    states = TransformersEngine(model, batch_size).generate(prompts, constraint, sampling)
    assert all(state.done for state in states)
    return [tuple(state.genes) for state in states]


def sentences(tokenizer, n_genes):
    """All sentences of that many genes, and their tokens."""
    if tokenizer.mode == "text":
        pieces = [tokenizer.gene_pieces(g) for g in range(2)]
        assert (
            pieces[1][: len(pieces[0])] == pieces[0]
        )  # the first gene is the beginning of the second
    every = list(permutations(range(len(tokenizer.vocabulary)), n_genes))
    tokens = [[t for g in s for t in tokenizer.gene_pieces(g)] + [tokenizer.eos_id] for s in every]
    return every, tokens


class TestGenerate:
    @pytest.mark.parametrize("mode", ["genes", "text"])
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_draws_from_the_renormalised_distribution(
        self, architecture, mode, make_tokenizer, make_model
    ):
        model = make_model(make_tokenizer(GENES, mode), architecture, spread=0.5)
        prompt = model.tokenizer.encode(["Write 2 genes:"])
        every, tokens = sentences(model.tokenizer, 2)
        wanted = brute_force(model, prompt, tokens)
        assert wanted.sum() == pytest.approx(1)
        assert np.abs(wanted - 1 / len(wanted)).sum() / 2 > 0.1  # far from even
        n = 3000
        drawn = draw(model, [prompt] * n, 2, Sampling(seed=1), batch_size=n)
        found = np.array([drawn.count(s) for s in every]) / n
        assert found.sum() == pytest.approx(1)
        # Expected distance of n draws: about 0.5 Σ sqrt(2 p / π n).
        expected = 0.5 * np.sqrt(2 * wanted / np.pi / n).sum()
        assert np.abs(found - wanted).sum() / 2 < 2 * expected

    def test_temperature_sharpens_as_it_says(self, make_tokenizer, make_model):
        model = make_model(make_tokenizer(GENES, "genes"), spread=0.5)
        prompt = model.tokenizer.encode(["Write 1 gene:"])
        pieces = [model.tokenizer.gene_pieces(g)[0] for g in range(4)]
        logits = log_probabilities(model, prompt)[-1, pieces]
        wanted = np.exp(2 * logits) / np.exp(2 * logits).sum()
        drawn = draw(model, [prompt] * 3000, 1, Sampling(temperature=0.5, seed=3), batch_size=3000)
        found = np.bincount([g for (g,) in drawn], minlength=4) / 3000
        np.testing.assert_allclose(found, wanted, atol=0.03)

    @pytest.mark.parametrize("mode", ["genes", "text"])
    def test_the_batch_decides_nothing(self, mode, cut_genes, make_tokenizer, make_model):
        model = make_model(make_tokenizer(cut_genes, mode))
        texts = [
            "Cell:",
            "Write the genes of a cell, highest first:",
            "Genes of one delta cell:",
        ] * 2
        prompts = [model.tokenizer.encode([text]) for text in texts]
        alone = draw(model, prompts, 4, Sampling(seed=5), batch_size=1)
        for batch_size in (4, None):
            assert draw(model, prompts, 4, Sampling(seed=5), batch_size) == alone
        assert draw(model, prompts[:4], 4, Sampling(seed=5)) == alone[:4]
        assert len(set(alone)) == len(alone)
        assert draw(model, prompts, 4, Sampling(seed=6)) != alone

    @pytest.mark.parametrize("mode", ["genes", "text"])
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_temperature_0_takes_the_most_probable_token(
        self, architecture, mode, make_tokenizer, make_model
    ):
        model = make_model(make_tokenizer(GENES, mode), architecture)
        tokenizer = model.tokenizer
        prompts = [tokenizer.encode([text]) for text in ("Cell:", "Write the genes of a cell:")]
        every, tokens = sentences(tokenizer, 3)
        wanted = []
        for prompt in prompts:
            path = []
            while not any(path == t for t in tokens):
                allowed = sorted({t[len(path)] for t in tokens if t[: len(path)] == path})
                path.append(
                    max(allowed, key=lambda t: log_probabilities(model, [*prompt, *path])[-1, t])
                )
            wanted.append(every[tokens.index(path)])
        for seed in (0, 1):
            assert draw(model, prompts, 3, Sampling(temperature=0, seed=seed)) == wanted
        assert draw(model, prompts, 3, Sampling(top_k=1)) == wanted
        assert draw(model, prompts, 3, Sampling(top_p=1e-9)) == wanted

    @pytest.mark.parametrize("mode", ["genes", "text"])
    @pytest.mark.parametrize("n_genes", [1, 7, 14])
    def test_exactly_so_many_genes_none_twice(self, mode, n_genes, make_tokenizer, make_model):
        genes = GeneVocabulary(
            "INS INSR INS-IGF2 IFI6 IFI6X T TTR HLA-A HLA-B HLA-DRA A1BG A1BG-AS1 C7 CD3".split()
        )
        model = make_model(make_tokenizer(genes, mode), spread=0.5)
        prompts = [model.tokenizer.encode(["Write genes:"])] * 60
        for sentence in draw(model, prompts, n_genes, Sampling(temperature=2, seed=n_genes)):
            assert len(sentence) == n_genes
            assert len(set(sentence)) == n_genes
            assert set(sentence) <= set(range(14))

    def test_a_label_is_drawn_as_often_as_it_is_probable(self, make_tokenizer, make_model):
        model = make_model(make_tokenizer(GENES, "genes"))
        tokenizer = model.tokenizer
        sequences = [tokenizer.encode([f" {label}"]).tolist() for label in LABELS]
        prompt = tokenizer.encode(["Cell type:"])
        wanted = brute_force(model, prompt, [[*s, tokenizer.eos_id] for s in sequences])
        states = TransformersEngine(model, 2000).generate(
            [prompt] * 2000, OneOf(sequences, tokenizer.eos_id), Sampling(seed=2)
        )
        found = np.bincount([state.item for state in states], minlength=len(LABELS)) / 2000
        np.testing.assert_allclose(found, wanted, atol=0.04)

    def test_tells_how_many_are_done(self, make_tokenizer, make_model):
        model = make_model(make_tokenizer(GENES, "genes"))
        prompts = [model.tokenizer.encode(["Cell:"])] * 5
        engine = TransformersEngine(model, 2)
        for work in (
            lambda told: engine.embed(prompts, told),
            lambda told: engine.score(prompts, [[5]], told),
            lambda told: engine.generate(prompts, OneOf([[5]], 0), Sampling(), told),
        ):
            done = []
            work(done.append)
            assert done == [2, 2, 1]


class TestContext:
    def test_what_does_not_fit_is_refused_before_any_work(self, make_tokenizer, make_model):
        model = make_model(make_tokenizer(GENES, "genes"), context=20)
        engine = TransformersEngine(model)
        long, short = np.arange(2, 21), np.arange(2, 5)
        trie = TokenTrie([model.tokenizer.gene_pieces(g) for g in range(4)])
        with pytest.raises(UsageError, match="take up to 24 tokens, and the model's context is 20"):
            engine.generate([short, long], GeneSentence(trie, 4, 0), Sampling())
        with pytest.raises(UsageError, match="take up to 21 tokens, and the model's context is 20"):
            engine.score([short, long], [[5, 0]])
        with pytest.raises(UsageError, match="take up to 21 tokens"):
            engine.embed([short, np.append(long, [3, 4])])
        assert engine.score([long], [[5]]).shape == (1, 1)
        assert engine.embed([np.append(long, 3)]).shape == (1, 32)

    @pytest.mark.parametrize("batch_size", [0, -3])
    def test_an_impossible_batch_is_refused(self, make_tokenizer, make_model, batch_size):
        with pytest.raises(UsageError, match="it is at least 1"):
            TransformersEngine(make_model(make_tokenizer(GENES, "genes")), batch_size)


class TestChoose:
    P = np.array([0.1, 0.0, 0.4, 0.2, 0.3])

    def frequencies(self, sampling, n=20_000):
        logits = torch.from_numpy(np.log(self.P, where=self.P > 0, out=np.full(5, -np.inf))).float()
        uniforms = (np.arange(n) + 0.5) / n
        chosen = choose(logits.expand(n, -1), sampling, uniforms)
        return np.bincount(chosen.numpy(), minlength=5) / n

    @pytest.mark.parametrize(
        ("sampling", "wanted"),
        [
            (Sampling(), [0.1, 0, 0.4, 0.2, 0.3]),
            (Sampling(temperature=0), [0, 0, 1, 0, 0]),
            (Sampling(temperature=0.5), np.array([1, 0, 16, 4, 9]) / 30),
            (Sampling(top_k=2), [0, 0, 4 / 7, 0, 3 / 7]),
            (Sampling(top_k=50), [0.1, 0, 0.4, 0.2, 0.3]),
            (Sampling(top_k=4), [0.1, 0, 0.4, 0.2, 0.3]),
            (Sampling(top_p=0.35), [0, 0, 1, 0, 0]),
            (Sampling(top_p=0.5), [0, 0, 4 / 7, 0, 3 / 7]),
            (Sampling(top_p=0.85), [0, 0, 4 / 9, 2 / 9, 3 / 9]),
            (Sampling(top_k=3, top_p=0.5), [0, 0, 4 / 7, 0, 3 / 7]),
            (Sampling(top_k=2, top_p=0.5), [0, 0, 1, 0, 0]),
            (Sampling(temperature=0.5, top_p=0.6), [0, 0, 16 / 25, 0, 9 / 25]),
        ],
    )
    def test_takes_each_token_as_often_as_its_share(self, sampling, wanted):
        np.testing.assert_allclose(self.frequencies(sampling), wanted, atol=2e-4)

    @settings(deadline=None)
    @given(
        logits=st.lists(st.one_of(st.just(-np.inf), st.floats(-50, 50)), min_size=2, max_size=9),
        uniform=st.one_of(st.sampled_from([0.0, 1 - 2.0**-53]), st.floats(0, 1, exclude_max=True)),
        temperature=st.sampled_from([0, 1e-3, 0.7, 1, 30]),
        top_k=st.integers(0, 9),
        top_p=st.sampled_from([1e-9, 0.3, 0.95, 1]),
    )
    def test_never_takes_what_is_not_allowed(self, logits, uniform, temperature, top_k, top_p):
        allowed = np.flatnonzero(np.isfinite(logits))
        if len(allowed) == 0:
            return
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
        chosen = choose(torch.tensor([logits]), sampling, np.array([uniform])).item()
        assert chosen in allowed
        best = np.sort(np.float32(logits))[::-1]
        if top_k:
            assert np.float32(logits[chosen]) >= best[min(top_k, len(best)) - 1]

    @pytest.mark.parametrize(
        "wrong",
        [{"temperature": -0.1}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": -1}],
        ids=lambda wrong: next(iter(wrong)),
    )
    def test_impossible_sampling_is_refused(self, wrong):
        name, value = next(iter(wrong.items()))
        with pytest.raises(UsageError, match=f"{name}={value} is"):
            Sampling(**wrong)
