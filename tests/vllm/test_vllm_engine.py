"""The real vLLM, on a CPU, beside the transformers engine on the same network: `make test-vllm`.

Starting vLLM takes most of the time, so each architecture is started once. It is given a network whose tokenizer has
gene tokens; in "text" mode these are left unused.
"""

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="vllm is not installed; make test-vllm has its own environment")

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import C2SError, InputError, UsageError
from c2s.constraints.trie import GeneSentence, OneOf, TokenTrie
from c2s.decoding.engine import TransformersEngine
from c2s.decoding.opening import open_engine
from c2s.decoding.sampling import Sampling
from c2s.models.directory import load_model
from c2s.tokens.tokenizer import CellTokenizer

GENES = GeneVocabulary("IFI6 IFI6X INS INSR INS-IGF2 RPL3 RPL31 RPL32 HLA-A HLA-B HLA-DRA".split())
TEXTS = ["Cell:", "Write the genes of a cell, highest first:", "Genes of one delta cell:"]
N_GENES = 7
#: Two candidates that are nearer than this may be taken for each other.
NEAR = 1e-3


@pytest.fixture(scope="module", params=["gpt_neox", "llama"])
def engines(request, make_tokenizer, make_model, tmp_path_factory):
    """The model, and both engines on it; vLLM reads the weights from the model directory."""
    # Heads of 32 numbers: vLLM's attention on a CPU takes no smaller ones.
    tokenizer = make_tokenizer(GENES, "genes")
    model = make_model(tokenizer, request.param, card={"top_k": 8}, hidden=128, spread=0.15)
    folder = tmp_path_factory.mktemp("vllm") / "model"
    model.save(folder)
    vllm = open_engine(load_model(folder, weights=False), "vllm", batch_size=8)
    yield model, TransformersEngine(model), vllm
    vllm.close()


@pytest.fixture
def prompts(engines):
    model = engines[0]
    return [model.tokenizer.encode([f"{TEXTS[i % 3]} {i}"]) for i in range(20)]


def sentences(model, mode):
    tokenizer = CellTokenizer(model.tokenizer.backend, GENES, mode)
    trie = TokenTrie([tokenizer.gene_pieces(g) for g in range(len(GENES))])
    return GeneSentence(trie, N_GENES, tokenizer.eos_id)


def labels(model, texts=("alpha", "delta", "delta cell", "beta")):
    return [model.tokenizer.encode([f" {text}"]).tolist() for text in texts]


def tokens_of(constraint, genes):
    """Return the tokens of a sentence."""
    by_item = {}
    for node in np.flatnonzero(constraint.trie.item_at >= 0):
        path, at = [], int(node)
        while at > 0:
            path.append(int(constraint.trie.child_token[at - 1]))
            at = int(constraint.trie.parent[at])
        by_item[int(constraint.trie.item_at[node])] = path[::-1]
    return [token for gene in genes for token in by_item[gene]]


def margin(model, prompt, constraint, one, other):
    """Return by how much the best token exceeds the second where two sentences part."""
    state, path = constraint.start(), []
    for a, b in zip(tokens_of(constraint, one), tokens_of(constraint, other), strict=False):
        if a != b:
            break
        path.append(a)
        state.advance(a)
    with torch.no_grad():
        logits = model.network(torch.tensor([[*map(int, prompt), *path]])).logits[0, -1]
    best = logits[torch.from_numpy(state.allowed())].sort(descending=True).values
    return float(best[0] - best[1])


@pytest.mark.parametrize("mode", ["text", "genes"])
class TestSentences:
    def test_the_same_greedy_genes_but_where_two_are_as_good(self, engines, prompts, mode):
        model, plain, vllm = engines
        constraint = sentences(model, mode)
        wanted = [state.genes for state in plain.generate(prompts, constraint, Sampling(0))]
        found = [state.genes for state in vllm.generate(prompts, constraint, Sampling(0))]
        for prompt, one, other in zip(prompts, wanted, found, strict=True):
            assert one == other or margin(model, prompt, constraint, one, other) < NEAR
        assert sum(a == b for a, b in zip(wanted, found, strict=True)) >= 15

    def test_the_same_draws_for_the_same_seed(self, engines, prompts, mode):
        model, plain, vllm = engines
        constraint = sentences(model, mode)
        sampling = Sampling(0.9, top_k=6, top_p=0.95, seed=5)
        wanted = [state.genes for state in plain.generate(prompts, constraint, sampling)]
        done = []
        found = [s.genes for s in vllm.generate(prompts, constraint, sampling, done.append)]
        assert sum(done) == len(prompts)
        # A draw within rounding of a border may fall on its other side.
        assert sum(a == b for a, b in zip(wanted, found, strict=True)) >= len(prompts) - 2
        assert all(len(set(genes)) == N_GENES for genes in found)
        again = [state.genes for state in vllm.generate(prompts, constraint, sampling)]
        assert again == found
        other = vllm.generate(prompts, constraint, Sampling(0.9, seed=6))
        assert [state.genes for state in other] != found

    def test_a_panel_of_as_many_genes_is_written_whole(self, engines, prompts, mode):
        model, _, vllm = engines
        panel = [1, 4, 7]
        tokenizer = CellTokenizer(model.tokenizer.backend, GENES, mode)
        trie = TokenTrie([tokenizer.gene_pieces(g) for g in panel])
        states = vllm.generate(prompts[:5], GeneSentence(trie, 3, tokenizer.eos_id), Sampling())
        assert all(sorted(state.genes) == [0, 1, 2] for state in states)


class TwoOf:
    """Two different tokens of a few, without any end: a constraint that only its states know."""

    max_tokens = 2

    def __init__(self, tokens):
        self.tokens = tokens

    def start(self):
        return TwoOfState(self.tokens)


class TwoOfState:
    progress = 0.0

    def __init__(self, tokens):
        self.tokens, self.taken = tokens, []

    @property
    def done(self):
        return len(self.taken) == 2

    def allowed(self):
        return np.setdiff1d(self.tokens, self.taken)

    def advance(self, token):
        assert token in self.allowed()
        self.taken.append(token)


class TestOtherConstraints:
    def test_the_same_labels(self, engines, prompts):
        model, plain, vllm = engines
        constraint = OneOf(labels(model), model.tokenizer.eos_id)
        for sampling in (Sampling(seed=2), Sampling(0.5, seed=3)):
            wanted = [state.item for state in plain.generate(prompts, constraint, sampling)]
            found = [state.item for state in vllm.generate(prompts, constraint, sampling)]
            assert sum(a == b for a, b in zip(wanted, found, strict=True)) >= len(prompts) - 1
            assert len(set(found)) > 1

    def test_one_of_the_users_own(self, engines, prompts):
        import sys

        import cloudpickle

        _, plain, vllm = engines
        cloudpickle.register_pickle_by_value(sys.modules[__name__])  # vLLM cannot import tests
        constraint = TwoOf(np.arange(20, 40))
        wanted = [s.taken for s in plain.generate(prompts, constraint, Sampling(seed=1))]
        found = [s.taken for s in vllm.generate(prompts, constraint, Sampling(seed=1))]
        assert sum(a == b for a, b in zip(wanted, found, strict=True)) >= len(prompts) - 1

    def test_an_end_of_text_that_is_not_the_end(self, engines, prompts):
        model, _, vllm = engines
        end = model.tokenizer.eos_id
        with pytest.raises(C2SError, match="end of text before its own end"):
            vllm.generate(prompts[:1], OneOf([[30, end, 31]], 32), Sampling())


class TestScores:
    def test_log_probabilities(self, engines, prompts):
        model, plain, vllm = engines
        answers = [[*label, model.tokenizer.eos_id] for label in labels(model)]
        wanted, done = plain.score(prompts, answers), []
        found = vllm.score(prompts, answers, done.append)
        np.testing.assert_allclose(found, wanted, atol=1e-3, rtol=0)
        assert sum(done) == len(prompts)
        np.testing.assert_allclose(
            vllm.score(prompts[:2], answers[2:3]), wanted[:2, 2:3], atol=1e-3
        )

    def test_answers_that_begin_alike_or_with_each_other(self, engines, prompts):
        _, plain, vllm = engines
        answers = [[5, 6, 7], [5, 6], [5, 6, 8, 9]]
        wanted = plain.score(prompts[:3], answers)
        np.testing.assert_allclose(vllm.score(prompts[:3], answers), wanted, atol=1e-3, rtol=0)

    def test_what_cannot_be_scored(self, engines, prompts):
        vllm = engines[2]
        with pytest.raises(InputError, match="same tokens"):
            vllm.score(prompts, [[5, 6], [5, 6]])
        with pytest.raises(UsageError, match="context"):
            vllm.score(prompts, [[5] * 600])


def test_longer_than_the_context(engines, prompts):
    model, _, vllm = engines
    constraint = sentences(model, "text")
    long = np.resize(prompts[0], 512 - constraint.max_tokens)
    assert vllm.generate([long], constraint, Sampling())[0].done
    with pytest.raises(UsageError, match=r"context is 512; ask for fewer genes"):
        vllm.generate([np.resize(long, len(long) + 1)], constraint, Sampling())
    assert vllm.generate([], constraint, Sampling()) == []


def test_verbs(engines, cut):
    import c2s

    model, _, vllm = engines
    made = [
        c2s.tl.generate(model, "beta", 3, top_k=5, seed=1, engine=engine)
        for engine in ("transformers", vllm)
    ]
    sentences = [list(adata.obs["cell_sentence"]) for adata in made]
    assert sum(a == b for a, b in zip(*sentences, strict=True)) >= 2
    found = [
        c2s.tl.annotate(cut[:6].copy(), model, engine=engine, copy=True)
        for engine in ("transformers", vllm)
    ]
    confidence = [adata.obs["c2s_confidence"].to_numpy() for adata in found]
    np.testing.assert_allclose(confidence[1], confidence[0], atol=1e-3)


def test_embedding_names_the_other_engine(engines, prompts):
    with pytest.raises(UsageError, match="engine='transformers'"):
        engines[2].embed(prompts)
