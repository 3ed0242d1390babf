"""Samples of several cells over one cache: what is written is what single sentences in a slow loop are, one by one."""

from collections import Counter
from itertools import permutations, product

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tests.decoding.test_generation import ARCHITECTURES, GENES, TEXTS, slow_answer
from tests.decoding.test_stepping import UnsteadyEngine, finished

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.seeds import cell_keys
from c2s.constraints.samples import CellSample
from c2s.constraints.trie import GeneSentence, TokenTrie
from c2s.decoding.engine import TransformersEngine
from c2s.decoding.generation import SampleWriter
from c2s.decoding.sampling import Sampling, keys_in_sample
from c2s.decoding.stepping import open_stepper

SAMPLINGS = [
    Sampling(seed=3),
    Sampling(0.8, top_k=9, seed=5),
    Sampling((1.5, 0.2), seed=4),
    Sampling(top_p=0.8, seed=6),
    Sampling(0),
]


def sample_of(tokenizer, sizes, **kwargs):
    """Return a constraint: cells of these sizes, a header before all but the first, another one before the last."""
    trie = TokenTrie([tokenizer.gene_pieces(g) for g in range(len(tokenizer.vocabulary))])
    texts = ["\nCell 2:"] * (len(sizes) - 2) + [". The last one:"]
    between = [tokenizer.encode_english(text).tolist() for text in texts]
    ends = [*(tokens[0] for tokens in between), tokenizer.eos_id]
    # Cells of the same kind share their constraint, as those of `answer_constraint` do.
    kinds = {kind: GeneSentence(trie, *kind, **kwargs) for kind in zip(sizes, ends, strict=True)}
    return CellSample([kinds[kind] for kind in zip(sizes, ends, strict=True)], between)


def prompts_of(model, n):
    return [model.tokenizer.encode([text]) for text in (TEXTS * n)[:n]]


def write(model, prompts, constraint, sampling, guesses=4, batch_size=None):
    """Return the cells of each sample, and what they took."""
    engine = TransformersEngine(model, batch_size, guesses)
    states = engine.generate(prompts, constraint, sampling)
    assert all(state.done for state in states)
    return [state.cells for state in states], engine.passes


def tokens_of(constraint, state):
    """Return the tokens that a finished sample was written with, from its genes and how each cell ended."""
    tokens = []
    between = [*constraint.between, [constraint.sentences[-1].end_token]]
    for number, (sentence, text) in enumerate(zip(constraint.sentences, between, strict=True)):
        cell = state._cells[number]
        tokens += [token for gene in cell.genes for token in sentence.trie.sequences[gene]]
        if number + 1 < len(between) or cell.ended_by_token:
            tokens += text
    return tokens


def slow_sample(model, prompt, constraint, sampling, key):
    """Write one sample: each cell as a sentence behind a longer prompt, a full pass for each token."""
    cells, so_far = [], [*map(int, prompt)]
    for number, sentence in enumerate(constraint.sentences):
        cell_key = keys_in_sample(np.array([key]), number)[0]
        state, path = slow_answer(model, so_far, sentence, sampling, cell_key)
        cells.append(state.genes)
        if number < len(constraint.between):
            text = constraint.between[number]
            so_far += path + (text[1:] if path[-1] == text[0] else text)
    return cells


class TestAgainstTheSlowLoop:
    @pytest.mark.parametrize(
        ("architecture", "mode"),
        [*((name, "text") for name in ARCHITECTURES), ("gpt_neox", "genes")],
    )
    def test_the_same_cells(self, architecture, mode, make_tokenizer, make_model):
        model = make_model(make_tokenizer(GENES, mode), architecture, spread=0.4)
        prompts = prompts_of(model, 3)
        constraint = sample_of(model.tokenizer, [3, 3, 2])
        for sampling in SAMPLINGS[::2]:
            keys = cell_keys([str(i) for i in range(len(prompts))], sampling.seed)
            wanted = [
                slow_sample(model, p, constraint, sampling, key)
                for p, key in zip(prompts, keys, strict=True)
            ]
            for guesses in (0, 6):
                assert write(model, prompts, constraint, sampling, guesses)[0] == wanted

    @pytest.mark.parametrize("sampling", SAMPLINGS[1::2], ids=str)
    def test_a_token_a_pass_writes_the_same(
        self, sampling, make_tokenizer, make_model, monkeypatch
    ):
        """Networks that cannot take tokens back, and engines with a batch of their own, draw by the same rule."""
        model = make_model(make_tokenizer(GENES, "text"), "llama", spread=0.4)
        prompts, constraint = prompts_of(model, 10), sample_of(model.tokenizer, [3, 2, 3])
        wanted, _ = write(model, prompts, constraint, sampling)

        def refuse(*args):
            raise AssertionError("written with a slot cache")

        with monkeypatch.context() as patch:
            patch.setattr("c2s.decoding.slots.takes_slots", lambda network: False)
            patch.setattr("c2s.decoding.engine.SampleWriter", refuse)
            assert write(model, prompts, constraint, sampling)[0] == wanted
        keys = cell_keys([str(i) for i in range(len(prompts))], sampling.seed)
        stop = model.tokenizer.eos_id
        stepper = open_stepper(constraint, sampling, keys, stop)
        lengths = [constraint.max_tokens + 1] * len(prompts)
        written = UnsteadyEngine(model.network, stop).run(stepper, prompts, lengths)
        assert [finished(constraint, tokens).cells for tokens in written] == wanted


class TestTokens:
    @pytest.mark.parametrize("required", [[], [0, 5]])
    def test_every_answer_is_accepted_token_for_token(self, required, make_tokenizer, make_model):
        """And both ways in which a cell can end do occur: by itself, and by the first token of the text behind it."""
        model = make_model(make_tokenizer(GENES, "text"), spread=0.3)
        constraint = sample_of(model.tokenizer, [3, 3, 3, 2], required=required)
        states = TransformersEngine(model).generate(
            prompts_of(model, 40), constraint, Sampling(seed=2)
        )
        ended = Counter()
        for state in states:
            replayed = constraint.start()
            for token in tokens_of(constraint, state):
                assert token in replayed.allowed()
                replayed.advance(token)
            assert replayed.done
            assert replayed.cells == state.cells
            assert [c.ended_by_token for c in replayed._cells] == [
                c.ended_by_token for c in state._cells
            ]
            ended.update(cell.ended_by_token for cell in state._cells[:-1])
            for cell, sentence in zip(state.cells, constraint.sentences, strict=True):
                assert len(set(cell)) == len(cell) == sentence.n_genes
                assert set(required) <= set(cell)
        assert ended[False] > 10
        assert required or ended[True] > 10

    def test_what_the_cache_holds_is_the_answer(self, make_tokenizer, make_model, monkeypatch):
        """The tokens that were fed, a wrong guess overwritten by what follows it, are prompt and answer."""
        monkeypatch.setattr("c2s.decoding.generation._SHRINK_AT", -1)  # rows stay where they are
        model = make_model(make_tokenizer(GENES, "text"), spread=0.3)
        prompts, constraint = prompts_of(model, 6), sample_of(model.tokenizer, [3, 4, 2])
        writer = SampleWriter(model.network, constraint, Sampling(seed=8), 4)
        slots = np.full((len(prompts), 300), -1)
        for each in set(writer._writers):
            record(each.network, slots)
        with torch.inference_mode():
            states = writer.write(prompts, cell_keys(list("abcdef"), 0))
        for prompt, state, row in zip(prompts, states, slots, strict=True):
            # The last token is drawn and not fed.
            wanted = [*prompt.tolist(), *tokens_of(constraint, state)[:-1]]
            assert row[: len(wanted)].tolist() == wanted


def record(network, slots):
    """Let a network write what it is fed into an array of slots."""
    run = network.logits

    def logits(ids, n_fed, lengths, cache, wanted):
        for row, (n, start) in enumerate(zip(n_fed, lengths, strict=True)):
            slots[row, start : start + n] = ids[row, :n]
        return run(ids, n_fed, lengths, cache, wanted)

    network.logits = logits


def exact(model, prompt, constraint):
    """Return all samples, and the probability of each under the constrained model."""
    probabilities = Counter()

    def follow(path, p):
        state = constraint.start()
        for token in path:
            state.advance(token)
        if state.done:
            probabilities[tuple(map(tuple, state.cells))] += p
            return
        allowed = state.allowed()
        with torch.no_grad():
            logits = model.network(torch.tensor([[*map(int, prompt), *path]])).logits[0, -1]
        for token, q in zip(allowed, logits[allowed].double().softmax(-1), strict=True):
            follow([*path, int(token)], p * float(q))

    follow([], 1.0)
    return probabilities


class TestDistribution:
    @pytest.mark.parametrize("guesses", [0, 8])
    def test_samples_come_as_often_as_they_are_probable(self, guesses, make_tokenizer, make_model):
        """Two cells of one gene and of two: both cells' draws, and that the second is drawn behind the first."""
        genes = GeneVocabulary(["IFI6", "IFI6X", "INS", "INSR"])
        model = make_model(make_tokenizer(genes, "text"), spread=0.35)
        prompt = model.tokenizer.encode(["Write 2 cells:"])
        constraint = sample_of(model.tokenizer, [1, 2])
        wanted = exact(model, prompt, constraint)
        pairs = permutations(range(4), 2)
        assert set(wanted) == {((a,), b) for a, b in product(range(4), pairs)}
        assert sum(wanted.values()) == pytest.approx(1)
        n = 6000
        cells, _ = write(model, [prompt] * n, constraint, Sampling(seed=1), guesses, n // 4)
        drawn = Counter(tuple(map(tuple, sample)) for sample in cells)
        common = [s for s in wanted if wanted[s] * n >= 5]
        found = np.array([*(drawn[s] for s in common), 0])
        expected = np.array([*(wanted[s] * n for s in common), 0])
        found[-1], expected[-1] = n - found.sum(), n - expected.sum()
        kept = expected > 1
        assert kept.sum() > 12
        scaled = expected[kept] * found[kept].sum() / expected[kept].sum()
        assert chisquare(found[kept], scaled).pvalue > 1e-3

    @pytest.mark.parametrize("sampling", SAMPLINGS[1:4], ids=str)
    def test_guesses_and_batches_decide_nothing(
        self, sampling, cut_genes, make_tokenizer, make_model
    ):
        model = make_model(make_tokenizer(cut_genes, "text"), spread=0.3)
        prompts = prompts_of(model, 6)
        plain = sample_of(model.tokenizer, [5, 5, 3])
        wanted, _ = write(model, prompts, plain, sampling, guesses=0, batch_size=1)
        frequencies = np.random.default_rng(0).integers(0, 50, len(cut_genes))
        guided = sample_of(model.tokenizer, [5, 5, 3], frequencies=frequencies)
        for constraint in (plain, guided):
            for guesses, batch_size in ((0, 4), (3, 1), (9, None)):
                assert write(model, prompts, constraint, sampling, guesses, batch_size)[0] == wanted

    def test_cells_of_a_sample_have_draws_of_their_own(self):
        keys = cell_keys([str(i) for i in range(1000)], 0)
        of_cells = [keys, *(keys_in_sample(keys, cell) for cell in range(20))]
        assert len(np.unique(np.concatenate(of_cells))) == 21_000


class TestPasses:
    def test_one_a_gene_where_a_gene_is_a_token(self, make_tokenizer, make_model):
        """The text between two cells is read in the pass that begins the second, like a prompt."""
        model = make_model(make_tokenizer(GENES, "genes"))
        constraint = sample_of(model.tokenizer, [8, 8, 8])
        _, passes = write(model, prompts_of(model, 3), constraint, Sampling())
        assert (passes.genes, passes.passes, passes.fed) == (72, 63, 63)

    def test_later_cells_are_guessed_from_earlier_ones(self, make_tokenizer, make_model):
        """Also by a last cell, which ends otherwise."""
        genes = GeneVocabulary("IFNA1 IFNA2 RPL31 RPL32 HLA-DRA HLA-DQB".split())
        model = make_model(make_tokenizer(genes, "text"))
        writer = SampleWriter(
            model.network, sample_of(model.tokenizer, [2, 2, 2]), Sampling(), guesses=4
        )
        first, second, last = writer._writers
        assert first is not last
        assert second.counts is first.counts is last.counts
        other = SampleWriter(
            model.network, sample_of(model.tokenizer, [2, 2, 3]), Sampling(), guesses=4
        )
        assert other._writers[0].counts is not other._writers[2].counts


def test_a_batch_has_room_for_whole_samples(make_tokenizer, make_model, monkeypatch):
    """About 16,000 tokens on a processor, of prompts and of all cells with what stands between them."""
    model = make_model(make_tokenizer(GENES, "genes"), context=8000)
    constraint = sample_of(model.tokenizer, [11] * 300)
    each = 300 * 11 + sum(map(len, constraint.between))
    assert constraint.usual_tokens == each
    prompts, sizes = [model.tokenizer.encode(["Cell:"])] * 9, []
    engine = TransformersEngine(model)
    monkeypatch.setattr(
        engine, "_writer", lambda *_: lambda batch, _: sizes.append(len(batch)) or batch
    )
    engine.generate(prompts, constraint, Sampling())
    assert sizes[0] == 16_000 // (len(prompts[0]) + each)
    assert 1 < sizes[0] < 9
