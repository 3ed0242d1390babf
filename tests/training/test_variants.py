"""Attention over prompts that is not causal, against dense masks made from its definition; gene order as augmentation."""

import json

import numpy as np
import pytest
import torch
import yaml
from transformers import AttentionInterface, AttentionMaskInterface

from c2s.analysis.gene_sets import enumerate_gene_set
from c2s.analysis.samples import _Asker
from c2s.common.errors import UsageError
from c2s.constraints.free_text import FreeText
from c2s.constraints.trie import GeneSentence, TokenTrie
from c2s.decoding import slots
from c2s.decoding.engine import TransformersEngine
from c2s.decoding.prompt_attention import PromptReader
from c2s.decoding.sampling import Sampling
from c2s.models.attention import PromptAttention, PromptReach
from c2s.models.directory import C2S_JSON, load_model
from c2s.tasks.registry import get_task
from c2s.training import packed_attention
from c2s.training.packed_attention import attending_packed
from c2s.training.packed_network import PackedNetwork
from c2s.training.recipe import TrainingRecipe
from c2s.training.samples import CellStream, TokenSample, flatten
from c2s.training.variants import AugmentRecipe, PermutedStream

ARCHITECTURES = ["gpt_neox", "llama", "gemma2"]
KINDS = {
    "prefix": {"kind": "prefix"},
    "blocks": {"kind": "blocks", "block_genes": 4},
    "hybrid": {"kind": "hybrid"},
    "hybrid-1": {"kind": "hybrid", "layers": [1]},
}


@pytest.fixture(params=KINDS, ids=list(KINDS))
def attention(request):
    return PromptAttention(**KINDS[request.param])


# --- the slow way: every pair of tokens asked about by the definition -----------------------------


def is_open(attention, layer):
    """Whether a layer of two is not causal: all, those listed, or the first."""
    return attention.kind != "hybrid" or layer in (attention.layers or [0])


def sees(attention, i, j, n_prompt, gene):
    """Whether token `i` sees token `j` in an open layer; `gene` numbers the genes of the prompt's only cell."""
    if j <= i:
        return True
    if i >= n_prompt or j >= n_prompt:
        return False
    if attention.kind != "blocks":
        return True
    return gene[i] >= 0 and gene[j] >= 0 and gene[i] // 4 == gene[j] // 4


def dense(attention, n, n_prompt, gene, layer, window):
    """bool, (n, n): what each token sees in a layer."""
    seen = np.zeros((n, n), bool)
    for i in range(n):
        for j in range(n):
            near = window is None or abs(i - j) < window
            may = sees(attention, i, j, n_prompt, gene) if is_open(attention, layer) else j <= i
            seen[i, j] = near and may
    return seen


def number_genes(tokenizer, ids, n_prompt):
    """0, 1, … for the genes of the prompt's run of genes of "genes" mode; −1 elsewhere."""
    columns = tokenizer.gene_columns()
    at = [k for k, token in enumerate(ids[:n_prompt]) if int(token) in columns]
    gene = np.full(len(ids), -1)
    gene[at] = np.arange(len(at))
    return gene


#: Of each layer and window what tokens see; read by the attention below.
DENSE = {}


def dense_attention(
    module, query, key, value, attention_mask, scaling=None, sliding_window=None, softcap=None, **_
):
    """Plain softmax over all pairs."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    scores = (query @ key.transpose(-1, -2)) * (scaling or query.shape[-1] ** -0.5)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    seen = torch.from_numpy(DENSE["seen"](module.layer_idx, sliding_window))
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value).transpose(1, 2), None


AttentionInterface.register("dense_test", dense_attention)
AttentionMaskInterface.register("dense_test", lambda *_, **__: None)


def alone(network, tokenizer, attention, ids, n_prompt, **inputs):
    """Logits of one sample by the attention above. (n, vocabulary)."""
    gene, n = number_genes(tokenizer, ids, n_prompt), len(ids)
    DENSE["seen"] = lambda layer, window: dense(attention, n, n_prompt, gene, layer, window)
    before = network.config._attn_implementation
    network.set_attn_implementation("dense_test")
    try:
        inputs = inputs or {"input_ids": torch.from_numpy(np.asarray(ids, np.int64))[None]}
        return network(**inputs, use_cache=False).logits[0]
    finally:
        network.set_attn_implementation(before)


@pytest.fixture(scope="module")
def samples(gene_tokenizer, make_stream):
    """Samples of both tasks; cells stand in prompts and in responses."""
    drawn = CellStream(make_stream(10, seed=3), gene_tokenizer).at(np.arange(10))
    assert {s.task for s in drawn} == {"cell_type", "cond_cell"}
    return drawn


def packed(network, tokenizer, attention, samples, reach=None):
    """Losses by sample; gradients of their mean are left in the network."""
    wrapped = PackedNetwork(network, "sample", attention)
    batch = flatten(samples, reach=reach or PromptReach(attention, tokenizer))
    with attending_packed(network):
        loss, each = wrapped(batch, len(samples))
        loss.backward()
    return loss, each


def gradients(network):
    found = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
class TestPacked:
    def test_losses_and_gradients_are_those_of_each_sample_under_a_dense_mask(
        self, architecture, attention, gene_tokenizer, make_network, samples, monkeypatch
    ):
        network = make_network(architecture, gene_tokenizer)
        losses = []
        for s in samples:
            logits = alone(network, gene_tokenizer, attention, s.ids, s.prompt_length)
            targets = torch.from_numpy(s.ids)
            at = slice(s.prompt_length - 1, len(s.ids) - 1)
            losses.append(torch.nn.functional.cross_entropy(logits[at], targets[s.prompt_length :]))
        torch.stack(losses).mean().backward()
        expected = gradients(network)
        # Capped scores are made for a stretch of the queries at a time, where they are many.
        for stretch in (None, 11) if architecture == "gemma2" else (None,):
            if stretch:
                monkeypatch.setattr(packed_attention, "_STRETCH_SCORES", 1)
                monkeypatch.setattr(packed_attention, "_FEWEST_QUERIES", stretch)
            _, each = packed(network, gene_tokenizer, attention, samples)
            assert each.tolist() == pytest.approx([x.item() for x in losses], abs=2e-5)
            found = gradients(network)
            for name, gradient in expected.items():
                torch.testing.assert_close(found[name], gradient, atol=2e-5, rtol=1e-3, msg=name)
        causal = packed(network, gene_tokenizer, PromptAttention(), samples)[1]
        changed = abs(causal - each) > 1e-3
        cells = [s.task == "cell_type" for s in samples]
        # What tokens of a prompt see in the last layer, no token of the response reads.
        assert changed[cells].all() == (attention.layers != [1])
        # Without a cell in the prompt there is no block in it.
        assert attention.kind != "blocks" or not changed[[not c for c in cells]].any()

    def test_a_change_is_seen_where_it_may_be_and_nowhere_else(
        self, architecture, attention, gene_tokenizer, make_network, samples
    ):
        network = make_network(architecture, gene_tokenizer)
        for sample in (
            next(s for s in samples if s.task == "cell_type"),
            next(s for s in samples if s.task == "cond_cell"),
        ):
            ids, n, n_prompt = sample.ids, len(sample.ids), sample.prompt_length
            gene = number_genes(gene_tokenizer, ids, n_prompt)
            windows = [None, None]
            if architecture == "gemma2":
                windows = [8 if t == "sliding_attention" else None for t in network.config.layer_types]  # fmt: skip
            reached = np.eye(n, dtype=bool)
            for layer, window in enumerate(windows):
                reached = dense(attention, n, n_prompt, gene, layer, window) @ reached
            # Sample 0 as it is, and one sample for each token that is another one there.
            table = np.tile(ids, (n + 1, 1))
            table[np.arange(1, n + 1), np.arange(n)] = (ids + 1) % 300
            variants = [TokenSample(row, n_prompt) for row in table]
            reach = PromptReach(attention, gene_tokenizer)(ids, n_prompt)
            hidden = self.hidden(network, attention, variants, reach)
            moved = (hidden[1:] - hidden[0]).abs().amax(-1).T.numpy()  # (seeing, changed)
            assert moved[~reached].max(initial=0) <= 1e-5
            assert moved[reached].min() > 1e-4

    @staticmethod
    def hidden(network, attention, samples, reach):
        batch = flatten(samples, reach=lambda *_: reach)
        wrapped = PackedNetwork(network, "sample", attention)
        layout = packed_attention.PackedLayout(
            batch.lengths.tolist(), "cpu", batch.reach[0], wrapped.open_layers
        )
        with attending_packed(network), torch.no_grad():
            found = network.base_model(
                input_ids=batch.ids, position_ids=batch.positions, use_cache=False,
                packed_layout=layout,
            ).last_hidden_state[0]  # fmt: skip
        return found.reshape(len(samples), -1, found.shape[-1])


def test_what_cannot_be_trained_is_refused(gene_tokenizer, make_network, samples):
    prefix = PromptAttention(kind="prefix")
    reach = PromptReach(prefix, gene_tokenizer)
    with pytest.raises(UsageError, match="set learn: response"):
        flatten(samples, "all", reach=reach)
    network = make_network("llama", gene_tokenizer)
    with attending_packed(network), pytest.raises(UsageError, match="how far its tokens see"):
        PackedNetwork(network, "sample", prefix)(flatten(samples), 1.0)
    with pytest.raises(UsageError, match=r"attention.layers: the network has 2 layers"):
        PackedNetwork(network, "sample", PromptAttention(kind="hybrid", layers=[2]))
    with pytest.raises(ValueError, match="belongs to kind: hybrid"):
        PromptAttention(kind="prefix", layers=[0])
    hybrid = PromptAttention(kind="hybrid")
    assert [hybrid.open_layers(n) for n in (5, 4, 2, 1)] == [{0, 2}, {0, 2}, {0}, {0}]


# --- decoding -------------------------------------------------------------------------------------


@pytest.fixture
def reading(request, make_model, gene_tokenizer, attention):
    """A tiny model that reads prompts so, and prompts of several lengths."""
    card = {"attention": attention.model_dump()}
    return make_model(gene_tokenizer, request.param, card=card)


@pytest.fixture(scope="module")
def prompts(samples):
    found = [s.ids[: s.prompt_length] for s in samples]
    assert len({len(p) for p in found}) > 3
    return found


def next_log_p(model, attention, prompt, written):
    """log p of what follows, each by a full pass with a dense mask. (n_written + 1, vocabulary)."""
    ids = np.array([*prompt, *written], np.int64)
    with torch.no_grad():
        logits = alone(model.network, model.tokenizer, attention, ids, len(prompt))
    return logits[len(prompt) - 1 :].double().log_softmax(-1).numpy()


@pytest.mark.parametrize("reading", [*ARCHITECTURES, "gpt2"], indirect=True)
class TestDecoding:
    def test_scores(self, reading, attention, prompts):
        answers = [[5, 9, 2], [5, 7], [200, 9, 11, 2]]
        wanted = np.array(
            [
                [sum(next_log_p(reading, attention, p, a)[range(len(a)), a]) for a in answers]
                for p in prompts
            ]
        )
        found = TransformersEngine(reading).score(prompts, answers)
        np.testing.assert_allclose(found, wanted, atol=3e-5)
        # Prompts that begin alike are not read alike: what differs behind is seen by what does not.
        cell = next(p for p in prompts if (number_genes(reading.tokenizer, p, len(p)) >= 0).any())
        last = np.flatnonzero(number_genes(reading.tokenizer, cell, len(cell)) >= 0)[-1]
        variants = np.tile(cell, (3, 1))
        variants[1:, last] = cell[last - 9 : last - 7]
        apart = TransformersEngine(reading, 1).score(variants, answers)
        found = TransformersEngine(reading).score(variants, answers, alike=True)
        np.testing.assert_allclose(found, apart, atol=3e-5)
        np.testing.assert_allclose(
            TransformersEngine(reading, 1).score(prompts, answers), wanted, atol=3e-5
        )
        # The beginning of an answer may stand with the prompt; it is no part of it.
        begun = [np.append(p, [5, 9][: 1 + k % 2]) for k, p in enumerate(prompts)]
        found = TransformersEngine(reading).score(
            begun, [[7, 8], [9, 2]], begun=[1 + k % 2 for k in range(len(prompts))]
        )
        wanted = [
            [sum(next_log_p(reading, attention, p, a)[range(len(a)), a][1 + k % 2 :]) for a in
             ([*[5, 9][: 1 + k % 2], 7, 8], [*[5, 9][: 1 + k % 2], 9, 2])]
            for k, p in enumerate(prompts)
        ]  # fmt: skip
        np.testing.assert_allclose(found, wanted, atol=3e-5)

    @pytest.mark.parametrize("steady", [False, True])
    def test_what_is_written(self, reading, attention, prompts, steady, monkeypatch):
        if steady:
            monkeypatch.setattr(slots, "takes_slots", lambda network: False)
        tokenizer = reading.tokenizer
        trie = TokenTrie([tokenizer.gene_pieces(g) for g in range(len(tokenizer.vocabulary))])
        constraint = GeneSentence(trie, 3, tokenizer.eos_id)
        kind = slots.SteadyNetwork if steady else slots.SlotNetwork
        seen, logits = [], kind.logits

        def watch(self, *args):
            seen.append(logits(self, *args))
            return seen[-1]

        monkeypatch.setattr(kind, "logits", watch)
        states = TransformersEngine(reading).generate(prompts, constraint, Sampling(temperature=0))
        # Prompts are read longest first, all in one batch: what the first gene is drawn from.
        order = np.argsort([-len(p) for p in prompts], kind="stable")
        for row, found in zip(order, seen[0], strict=True):
            log_p = next_log_p(reading, attention, prompts[row], [])[0][constraint.tokens]
            found = found.astype(np.float64)
            np.testing.assert_allclose(found - found[0], log_p - log_p[0], atol=1e-4)
        for prompt, state in zip(prompts, states, strict=True):
            written = []
            for _ in range(3):
                log_p = next_log_p(reading, attention, prompt, written)[-1]
                free = [t for t in constraint.tokens if t != tokenizer.eos_id and t not in written]
                written.append(int(free[np.argmax(log_p[free])]))
            assert [tokenizer.gene_pieces(g)[0] for g in state.genes] == written

    def test_free_texts_and_answers_that_were_begun(self, reading, attention, prompts):
        n_tokens = len(reading.tokenizer.backend)
        free = FreeText(n_tokens, reading.tokenizer.eos_id, 4, set())
        begun = [np.append(p, [5, 9]) for p in prompts[:4]]
        for state, prompt in zip(
            TransformersEngine(reading).generate(begun, free, Sampling(temperature=0), None, 2),
            prompts,
            strict=False,
        ):
            written = [5, 9]
            for token in state.tokens:
                assert token == next_log_p(reading, attention, prompt, written)[-1].argmax()
                written.append(token)

    def test_embeddings_and_gradients(self, reading, attention, prompts):
        engine, network = TransformersEngine(reading), reading.network
        answers = [[5, 9], [7, 2]]
        _, values = engine.input_gradients(prompts, answers, np.zeros(len(prompts), int))
        found = engine.embed(prompts)
        for prompt, value, mean in zip(prompts, values, found, strict=True):
            kept = []
            handle = network.base_model.register_forward_hook(
                lambda *args, kept=kept: kept.append(args[2].last_hidden_state)
            )
            with torch.no_grad():
                alone(network, reading.tokenizer, attention, prompt, len(prompt))
            handle.remove()
            np.testing.assert_allclose(mean, kept[0][0].mean(0).numpy(), atol=2e-5)
            totals, table = [], network.get_input_embeddings()
            embedded = table(torch.from_numpy(np.asarray(prompt, np.int64)))[None].detach()
            embedded.requires_grad_()
            for answer in answers:
                ids = np.array([*prompt, *answer], np.int64)
                whole = torch.cat([embedded, table(torch.tensor(answer))[None]], 1)
                logits = alone(
                    network, reading.tokenizer, attention, ids, len(prompt), inputs_embeds=whole
                )
                steps = logits[len(prompt) - 1 : -1].log_softmax(-1)
                totals.append(steps[range(len(answer)), answer].sum())
            log_p = torch.stack(totals).log_softmax(-1)[0]
            slope = torch.autograd.grad(log_p, embedded)[0]
            np.testing.assert_allclose(
                value, (slope * embedded).sum(-1)[0].detach().numpy(), atol=5e-5, rtol=1e-3
            )


def test_verbs_say_which_tokens_are_the_answers_own(make_model, gene_tokenizer, monkeypatch):
    texts = {"prompts": ["List genes of {gene_set}:"], "response": " In it are {genes}."}
    card = {"tasks": ["gene_set_enum"], "prompts": "own", "wording": {"gene_set_enum": texts}}
    model = make_model(gene_tokenizer, card={**card, "attention": {"kind": "prefix"}})
    seen, reading = [], PromptReader.reading

    def watch(self, prompts, width, begun=0, **options):
        seen.append([p[: len(p) - begun].tolist() for p in prompts])
        return reading(self, prompts, width, begun, **options)

    monkeypatch.setattr(PromptReader, "reading", watch)
    enumerate_gene_set("hormones", model, n=3)
    assert seen == [[model.encode_prompt(["List genes of hormones:"]).tolist()]]

    class Asked:
        """Takes the place of an engine."""

        rows = ()

        def score(self, rows, answers, progress=None, begun=0):
            Asked.rows += tuple(r[: len(r) - n].tolist() for r, n in zip(rows, begun, strict=True))
            return np.tile(np.arange(len(answers), dtype=float), (len(rows), 1))

    model = make_model(gene_tokenizer, card={"tasks": ["sample_cell_types"]})
    asker = _Asker(model, get_task("sample_cell_types"), ["alpha", "beta"], Asked())
    prompts = [np.arange(5), np.arange(7)]
    for _ in asker.types(prompts, [2, 3]):
        pass
    assert sorted(map(len, Asked.rows)) == [5, 5, 7, 7, 7]
    assert all(row == list(range(len(row))) for row in Asked.rows)


def test_the_card_keeps_the_kind_and_old_cards_are_causal(
    tmp_path, make_model, gene_tokenizer, prompts
):
    model = make_model(gene_tokenizer, card={"attention": {"kind": "prefix"}})
    model.save(tmp_path / "m")
    again = load_model(tmp_path / "m", device="cpu")
    assert again.card.attention.kind == "prefix"
    wanted = TransformersEngine(model).score(prompts, [[5], [7]])
    np.testing.assert_array_equal(TransformersEngine(again).score(prompts, [[5], [7]]), wanted)
    path = tmp_path / "m" / C2S_JSON
    content = json.loads(path.read_text("utf-8"))
    del content["attention"]
    path.write_text(json.dumps(content), "utf-8")
    old = load_model(tmp_path / "m", device="cpu")
    assert old.card.attention.is_causal
    assert abs(TransformersEngine(old).score(prompts, [[5], [7]]) - wanted).max() > 1e-3


def test_engines_that_read_causally_refuse_such_models(make_model, gene_tokenizer, prompts):
    from c2s.decoding.vllm_engine import VllmEngine

    model = make_model(gene_tokenizer, "llama", card={"attention": {"kind": "prefix"}})
    with pytest.raises(UsageError, match=r"attention.kind = prefix .* engine='transformers'"):
        VllmEngine(model)
    engine = TransformersEngine(model)
    model.network.set_attn_implementation("dense_test")
    with pytest.raises(UsageError, match="'dense_test' reads causally"):
        engine.score(prompts, [[5]])


# --- gene order -----------------------------------------------------------------------------------


class FixedStream:
    """The same samples in every step."""

    def __init__(self, samples):
        self.samples, self.task_names, self.n_items = samples, ("cell_type", "cond_cell"), len(samples)  # fmt: skip

    def steps(self, batch_size, first, rank, world_size):
        while True:
            yield self.samples[rank::world_size]


@pytest.mark.parametrize("mode", ["text", "genes"])
class TestPermuted:
    def streams(self, mode, make_tokenizer, cut_genes, make_stream, **augment):
        tokenizer = make_tokenizer(cut_genes, mode)
        stream = make_stream(24, seed=1)
        plain = CellStream(stream, tokenizer).at(np.arange(24))
        return (
            tokenizer,
            stream.draw(range(24)),
            plain,
            PermutedStream(FixedStream(plain), AugmentRecipe(**augment), tokenizer, seed=5),
        )

    def test_a_sentence_without_genes_that_can_move_stays(
        self, mode, make_tokenizer, cut_genes, make_stream
    ):
        *_, plain, stream = self.streams(
            mode, make_tokenizer, cut_genes, make_stream, share=1, window=5
        )
        stream._rows = set()
        shown = next(s for s in plain if s.task == "cell_type")
        found = stream.permuted(shown, np.random.default_rng(0))
        assert np.array_equal(found.ids, shown.ids)

    @pytest.mark.parametrize("window", [None, 5])
    def test_is_what_the_tokenizer_makes_of_the_permuted_cell(
        self, mode, window, make_tokenizer, cut_genes, make_stream
    ):
        tokenizer, examples, plain, stream = self.streams(
            mode, make_tokenizer, cut_genes, make_stream, share=1, window=window
        )
        moved = 0
        found = next(stream.steps(24, 0, 0, 1))
        for example, before, after in zip(examples, plain, found, strict=True):
            assert after.prompt_length == before.prompt_length
            n = before.prompt_length
            assert after.ids[n:].tolist() == before.ids[n:].tolist()
            cells = [s for s in example.prompt if not isinstance(s, str)]
            if not cells:
                assert after.ids.tolist() == before.ids.tolist()
                continue
            [cell] = cells
            prompt = tokenizer.decode(after.ids[:n])
            words = [w for w in prompt.split() if w in set(cut_genes.words)][-len(cell) :]
            order = cut_genes.columns(words)
            assert sorted(order) == sorted(cell)
            segments = [order if s is cell else s for s in example.prompt]
            assert tokenizer.encode(segments).tolist() == after.ids[:n].tolist()
            rank = {int(g): k for k, g in enumerate(cell)}
            ranks = np.array([rank[int(g)] for g in order])
            moved += (ranks != np.arange(len(cell))).sum()
            if window is not None:
                assert (ranks // window == np.arange(len(cell)) // window).all()
            else:
                assert abs(ranks - np.arange(len(cell))).max() > 5
        assert moved > 60

    def test_the_share_and_what_decides_the_draw(
        self, mode, make_tokenizer, cut_genes, make_stream
    ):
        _, _, plain, stream = self.streams(mode, make_tokenizer, cut_genes, make_stream, share=0.5)
        steps, sharded = stream.steps(24, 0, 0, 1), stream.steps(24, 0, 1, 3)
        found = [next(steps) for _ in range(30)]
        later = next(stream.steps(24, 4, 0, 1))
        assert [s.ids.tolist() for s in later] == [s.ids.tolist() for s in found[4]]
        assert [s.ids.tolist() for s in next(sharded)] == [s.ids.tolist() for s in found[0][1::3]]
        asked = [k for k, s in enumerate(plain) if s.task == "cell_type"]
        changed = [[step[k].ids.tolist() != plain[k].ids.tolist() for k in asked] for step in found]
        n = np.size(changed)
        assert abs(np.mean(changed) - 0.5) < 4 * 0.5 / np.sqrt(n)
        assert len({tuple(c) for c in changed}) > 20  # other samples in every step


# --- a run ----------------------------------------------------------------------------------------


def recipe(**changes):
    return {
        "stage": "sft",
        "base": {"preset": "mini"},
        "data": {"corpus": "corpus"},
        "optimisation": {"steps": 2},
        **changes,
    }


def test_recipes_that_cannot_work():
    prefix = {"kind": "prefix"}
    with pytest.raises(UsageError, match=r"attention.kind = 'prefix' needs learn: response"):
        TrainingRecipe.parse(recipe(stage="pretrain", attention=prefix), "r")
    TrainingRecipe.parse(recipe(stage="pretrain", attention=prefix, learn="response"), "r")
    with pytest.raises(UsageError, match="attention.block_genes"):
        TrainingRecipe.parse(recipe(attention={"kind": "blocks", "block_genes": 1}), "r")
    with pytest.raises(UsageError, match="augment.share"):
        TrainingRecipe.parse(recipe(augment={"share": 2}), "r")


def test_a_run_keeps_its_attention_and_a_further_one_takes_it_over(tmp_path, cut, monkeypatch):
    from c2s.corpus import redrawn
    from c2s.training.run import prepare, run_recipe

    build = redrawn.build_from  # in this process, which is quicker for so few cells
    monkeypatch.setattr(redrawn, "build_from", lambda *a, **k: build(*a, **{**k, "workers": 1}))
    most = np.sort(np.argsort(-np.asarray(cut.X.sum(0)).ravel())[:1500])
    cut[:, most].copy().write_h5ad(tmp_path / "cells.h5ad")
    corpus = {
        "sources": [{"data": "cells.h5ad", "values": {"study": "cut", "donor": "one"}}],
        "tasks": {"cell_type": {}},
        "tokenizer": "small", "tokens": "genes", "single_genes": [20, 20], "context": 128,
    }  # fmt: skip
    blocks = {"kind": "blocks", "block_genes": 5}
    first = TrainingRecipe.parse(
        recipe(data={"recipe": corpus, "validation": 8}, attention=blocks,
               augment={"share": 0.5, "window": 4}, optimisation={"steps": 2, "batch_size": 4}),
        "r",
    )  # fmt: skip
    run_recipe(first, tmp_path, tmp_path / "run", device="cpu")
    model = load_model(tmp_path / "run" / "model", device="cpu")
    assert model.card.attention == PromptAttention(**blocks)
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["augment"]["window"] == 4
    further = recipe(
        base={"model": "run/model"}, data={"corpus": "run/data/epoch-00000", "validation": 0}
    )
    taken = prepare(TrainingRecipe.parse(further, "r"), tmp_path, tmp_path / "w").attention
    assert taken == PromptAttention(**blocks)
    with pytest.raises(UsageError, match=r"learn: the base reads prompts with attention.kind = 'blocks'"):  # fmt: skip
        prepare(TrainingRecipe.parse({**further, "learn": "all"}, "r"), tmp_path, tmp_path / "w")
    causal = {**further, "learn": "all", "attention": {"kind": "causal"}}
    assert prepare(TrainingRecipe.parse(causal, "r"), tmp_path, tmp_path / "w").attention.is_causal
