"""Steppers write what `TransformersEngine` writes, whatever an engine does with its batch; opening engines by name."""

import pickle

import numpy as np
import pytest
import torch

import c2s
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError
from c2s.common.seeds import cell_keys
from c2s.constraints.names import NameList
from c2s.constraints.trie import GeneSentence, OneOf, TokenTrie
from c2s.decoding.engine import TransformersEngine
from c2s.decoding.opening import open_engine
from c2s.decoding.sampling import Sampling
from c2s.decoding.stepping import AnswerStepper, open_stepper

GENES = GeneVocabulary("IFI6 IFI6X INS INSR INS-IGF2 RPL3 RPL31 RPL32 HLA-A HLA-B HLA-DRA".split())
TEXTS = ["Cell:", "Write the genes of a cell, highest first:", "Genes of one delta cell:"]
N_PROMPTS = 20  # more than room is made for at first


class UnsteadyEngine:
    """Holds a few sequences at a time, in changing rows; throws draws away, drops sequences and reads them anew."""

    def __init__(self, network, stop_token, n_rows=12, seed=0):
        self.network, self.stop_token, self.n_rows = network, stop_token, n_rows
        self.rng = np.random.default_rng(seed)

    @torch.inference_mode()
    def run(self, stepper, prompts, lengths):
        written = [[] for _ in prompts]
        waiting, names = list(range(len(prompts))), {}
        while waiting or names:
            while waiting and len(names) < self.n_rows:
                sequence = waiting.pop(0)
                names[sequence] = stepper.start(sequence)
            running = list(self.rng.permutation(list(names)))
            logits = torch.stack([self._logits(prompts[s], written[s]) for s in running])
            rows = self.rng.permutation(len(running))
            shuffled = torch.empty_like(logits)
            shuffled[torch.from_numpy(rows)] = logits
            tokens = stepper.draw(
                [names[s] for s in running], [written[s] for s in running], shuffled, rows.tolist()
            )
            for sequence, token in zip(running, tokens.tolist(), strict=True):
                fate = self.rng.random()
                if fate < 0.1:  # read in pieces: the draw does not count
                    continue
                written[sequence].append(token)
                stopped = token == self.stop_token or len(written[sequence]) == lengths[sequence]
                if stopped or fate > 0.9:
                    stepper.stop(names.pop(sequence))
                    waiting += [] if stopped else [sequence]
        return written

    def _logits(self, prompt, written):
        ids = torch.tensor([[*map(int, prompt), *written]])
        return self.network(ids, use_cache=False).logits[0, -1]


def finished(constraint, tokens):
    state = constraint.start()
    for token in tokens:
        if not state.done:
            state.advance(token)
    assert state.done
    return state


def answer(state):
    return next(getattr(state, n) for n in ("genes", "names", "item") if hasattr(state, n))


def constraints(tokenizer):
    trie = TokenTrie([tokenizer.gene_pieces(g) for g in range(len(GENES))])
    labels = ["alpha", "delta", "delta cell", "beta"]
    ids = [tokenizer.encode([f" {label}"]).tolist() for label in labels]
    inner, last = ([tokenizer.encode([f" {n}{end}"]).tolist() for n in labels] for end in ";.")
    return [
        GeneSentence(trie, 6, tokenizer.eos_id),
        OneOf(ids, tokenizer.eos_id),
        NameList(inner, last, 2),
    ]


@pytest.mark.parametrize("mode", ["text", "genes"])
@pytest.mark.parametrize("sampling", [Sampling(0), Sampling(seed=3), Sampling(0.8, 4, 0.9, seed=4)])
def test_the_same_answers_as_the_transformers_engine(mode, sampling, make_tokenizer, make_model):
    model = make_model(make_tokenizer(GENES, mode), "llama", spread=0.4)
    stop = model.tokenizer.eos_id
    prompts = [model.tokenizer.encode([TEXTS[i % 3]]) for i in range(N_PROMPTS)]
    keys = cell_keys([str(i) for i in range(N_PROMPTS)], sampling.seed)
    for constraint in constraints(model.tokenizer):
        wanted = TransformersEngine(model).generate(prompts, constraint, sampling)
        stepper = open_stepper(constraint, sampling, keys, stop)
        stepper = pickle.loads(pickle.dumps(stepper))  # vLLM gets it from a file
        lengths = [constraint.max_tokens + 1] * N_PROMPTS
        written = UnsteadyEngine(model.network, stop).run(stepper, prompts, lengths)
        found = [finished(constraint, tokens) for tokens in written]
        assert [answer(s) for s in found] == [answer(s) for s in wanted]


def test_given_answers_are_written_whatever_their_probability(make_tokenizer, make_model):
    model = make_model(make_tokenizer(GENES, "text"))
    answers = [[7, 5, 3], [9], [4, 4, 4, 4]]
    prompts = [model.tokenizer.encode([text]) for text in TEXTS]
    engine = UnsteadyEngine(model.network, stop_token=-1)
    assert engine.run(AnswerStepper(answers), prompts, [3, 1, 4]) == answers


@pytest.fixture(scope="module")
def model(gene_tokenizer, make_model):
    """Random weights, in a model that knows the genes and types of `cut`."""
    return make_model(gene_tokenizer)


class TestOpenEngine:
    def test_by_name(self, model):
        engine = open_engine(model, "transformers", 3)
        assert isinstance(engine, TransformersEngine)
        assert engine.batch_size == 3
        assert open_engine(model, engine) is engine

    def test_one_that_is_not_there(self, model):
        with pytest.raises(
            UsageError, match="engine: found 'vlm', expected 'transformers' or 'vllm'"
        ):
            open_engine(model, "vlm")

    def test_vllm_that_is_not_installed(self, model, monkeypatch):
        monkeypatch.setattr("c2s.decoding.vllm_engine.find_spec", lambda name: None)
        with pytest.raises(UsageError, match=r"pip install 'c2s-toolkit\[vllm\]'"):
            open_engine(model, "vllm")
        with pytest.raises(UsageError, match="batch_size=0"):
            open_engine(model, "vllm", 0)


def test_generate_and_annotate_take_an_engine(model, cut):
    class Counted(TransformersEngine):
        asked = 0

        def generate(self, *args):
            Counted.asked += 1
            return super().generate(*args)

        def score(self, *args):
            Counted.asked += 10
            return super().score(*args)

    engine = Counted(model)
    cells = c2s.tl.generate(model, "beta", 3, engine=engine)
    assert list(cells.obs["cell_sentence"]) == list(
        c2s.tl.generate(model, "beta", 3).obs["cell_sentence"]
    )
    found = c2s.tl.annotate(cut[:10].copy(), model, engine=engine, copy=True)
    plain = c2s.tl.annotate(cut[:10].copy(), model, copy=True)
    assert list(found.obs["c2s_cell_type"]) == list(plain.obs["c2s_cell_type"])
    assert Counted.asked == 11


class TestClosing:
    @pytest.fixture
    def opened(self, monkeypatch):
        """Return the engines that are opened by name from now on; each counts how often it was closed."""
        opened = []

        class Watched(TransformersEngine):
            def __init__(self, *args):
                super().__init__(*args)
                self.closed = 0
                opened.append(self)

            def close(self):
                self.closed += 1

        monkeypatch.setattr("c2s.decoding.opening.TransformersEngine", Watched)
        return opened

    @pytest.fixture
    def verbs(self, model, cut, tmp_path):
        """Return every verb that takes an engine, as functions of the engine."""
        from c2s.analysis.annotate import label_probabilities

        few, labels = cut[:4].copy(), model.known("cell_type")
        few.write_h5ad(tmp_path / "in.h5ad")
        paths = tmp_path / "in.h5ad", tmp_path / "out.h5ad"
        return {
            "annotate": lambda e: c2s.tl.annotate(few, model, engine=e),
            "annotate_file": lambda e: c2s.tl.annotate_file(*paths, model, engine=e),
            "label_probabilities": lambda e: label_probabilities(few, model, labels, engine=e),
            "generate": lambda e: c2s.tl.generate(model, "beta", 1, top_k=2, engine=e),
        }

    @pytest.mark.parametrize(
        "verb", ["annotate", "annotate_file", "label_probabilities", "generate"]
    )
    def test_by_name_when_all_is_done_or_fails_else_never(self, model, opened, verbs, verb):
        verbs[verb]("transformers")
        assert [engine.closed for engine in opened] == [1]
        given = open_engine(model)
        verbs[verb](given)
        assert [engine.closed for engine in opened] == [1, 0]

        def fails(self, *args):
            raise RuntimeError("broken off")

        type(given).score = type(given).generate = fails
        for engine, closed in (("transformers", [1, 0, 1]), (given, [1, 0, 1])):
            with pytest.raises(RuntimeError, match="broken off"):
                verbs[verb](engine)
            assert [engine.closed for engine in opened] == closed

    def test_before_any_cell_is_asked_about(self, model, opened, cut):
        few = cut[:4].copy()
        few.obs["mine"] = 1
        with pytest.raises(UsageError, match="exists already"):
            c2s.tl.annotate(few, model, key_added="mine")
        assert [engine.closed for engine in opened] == [1]
        few.var_names = [f"X{i}" for i in range(few.n_vars)]
        with pytest.raises(InputError, match="known to the model"):
            c2s.tl.annotate(few, model)
        assert all(engine.closed == 1 for engine in opened)
