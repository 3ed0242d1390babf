"""Training: the loss is Hugging Face's own, nothing is cut, and a seed decides every weight."""

import numpy as np
import pytest
import torch

from c2s.common.errors import C2SError, UsageError
from c2s.models.directory import Model
from c2s.tasks.base import Example
from c2s.tasks.prompts import load_prompts
from c2s.tasks.single_cell import CELL_TYPE
from c2s.training.sft import IGNORE, Collator, Optimisation, response_loss, train

TASKS = ("cell_type", "cond_cell")


@pytest.fixture
def collate(gene_tokenizer):
    return Collator(gene_tokenizer, TASKS, None)


@pytest.fixture
def examples(make_stream):
    """Examples of both tasks, of different lengths."""
    drawn = make_stream(12, seed=3).draw(range(12))
    assert {e.task for e in drawn} == set(TASKS)
    return drawn


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.network.parameters()])


class TestCollator:
    def test_a_batch_by_hand(self, gene_tokenizer, collate):
        a = Example("cond_cell", ["Write:"], [" ", np.array([3, 1])])
        b = Example("cell_type", ["A cell: ", np.array([5, 2, 7]), "\nType:"], [" beta"])
        (gene3, gene1), ask_a = (
            gene_tokenizer.encode([np.array([3, 1])]),
            gene_tokenizer.encode(["Write:"]),
        )
        ask_b, beta = gene_tokenizer.encode(b.prompt), gene_tokenizer.encode([" beta"])
        eos, pad = gene_tokenizer.eos_id, gene_tokenizer.pad_id
        batch = collate([a, b])
        longest = len(ask_b) + len(beta) + 1
        spare = longest - len(ask_a) - 3
        assert batch["task"].tolist() == [1, 0]
        assert batch["input_ids"].tolist() == [
            [*ask_a, gene3, gene1, eos, *[pad] * spare],
            [*ask_b, *beta, eos],
        ]
        assert batch["labels"].tolist() == [
            [*[IGNORE] * len(ask_a), gene3, gene1, eos, *[IGNORE] * spare],
            [*[IGNORE] * len(ask_b), *beta, eos],
        ]
        assert batch["attention_mask"].sum(1).tolist() == [longest - spare, longest]
        assert batch["attention_mask"][0, : longest - spare].all()

    def test_nothing_is_cut(self, gene_tokenizer, examples):
        lengths = [
            len(gene_tokenizer.encode(e.prompt)) + len(gene_tokenizer.encode(e.response))
            for e in examples
        ]
        needed = max(lengths) + 1
        fits = Collator(gene_tokenizer, TASKS, needed)(examples)
        assert fits["attention_mask"].sum(1).tolist() == [n + 1 for n in lengths]
        with pytest.raises(
            UsageError, match=f"takes {needed} tokens, the model's context is {needed - 1}"
        ):
            Collator(gene_tokenizer, TASKS, needed - 1)(examples)


class TestLoss:
    @pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama", "gemma2"])
    def test_is_that_of_hugging_face_example_by_example(
        self, architecture, gene_tokenizer, make_network, collate, examples
    ):
        network = make_network(architecture, gene_tokenizer)
        with torch.no_grad():
            together = response_loss(network, collate(examples))
            for example, ours in zip(examples, together, strict=True):
                batch = collate([example])
                theirs = network(input_ids=batch["input_ids"], labels=batch["labels"]).loss
                assert response_loss(network, batch).item() == pytest.approx(
                    theirs.item(), rel=1e-5
                )
                assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
        assert together.std() > 0.1

    def test_has_the_gradient_of_hugging_face(
        self, gene_tokenizer, make_network, collate, examples
    ):
        gradients = []
        for ours in (True, False):
            network = make_network("gemma2", gene_tokenizer)
            batch = collate(examples[:1])
            if ours:
                response_loss(network, batch).mean().backward()
            else:
                network(input_ids=batch["input_ids"], labels=batch["labels"]).loss.backward()
            gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)

    def test_the_end_of_text_is_part_of_it(self, gene_tokenizer, make_network, collate):
        """By hand: minus the mean log p of the label's tokens and the end."""
        network = make_network("gpt_neox", gene_tokenizer)
        example = Example("cell_type", ["Which type?"], [" beta"])
        ids = [
            *gene_tokenizer.encode(["Which type?"]),
            *gene_tokenizer.encode([" beta"]),
            gene_tokenizer.eos_id,
        ]
        start = len(gene_tokenizer.encode(["Which type?"]))
        with torch.no_grad():
            steps = network(torch.tensor([list(map(int, ids))])).logits[0].log_softmax(-1)
            wanted = -np.mean([steps[i - 1, ids[i]].item() for i in range(start, len(ids))])
            assert response_loss(network, collate([example])).item() == pytest.approx(
                wanted, rel=1e-5
            )


class TestTrain:
    options = Optimisation(steps=8, batch_size=4, learning_rate=2e-2, eval_every=3)

    def run(
        self,
        make_model,
        gene_tokenizer,
        make_stream,
        *,
        seed=0,
        weights_seed=0,
        stream_seed=0,
        **kw,
    ):
        model = make_model(gene_tokenizer, spread=0.02, seed=weights_seed)
        stream = make_stream(32, seed=stream_seed)
        log = train(model, stream, self.options, seed=seed, device="cpu", **kw)
        return model, log

    def test_a_few_steps_help_on_cells_not_trained_on(
        self, make_model, gene_tokenizer, make_stream
    ):
        validation = make_stream(20, seed=99)
        model, log = self.run(make_model, gene_tokenizer, make_stream, validation=validation)
        before = make_model(gene_tokenizer, spread=0.02)
        batch = Collator(gene_tokenizer, TASKS, None)(validation.draw(range(20)))
        with torch.no_grad():
            start, end = (response_loss(m.network, batch) for m in (before, model))
        assert end.mean() < 0.8 * start.mean()
        assert not model.network.training
        # The last entries of the log are the very losses of the model that is left.
        last = {e["task"]: e["loss"] for e in log.losses if e["split"] == "val" and e["step"] == 8}
        for number, task in enumerate(TASKS):
            assert last[task] == pytest.approx(end[batch["task"] == number].mean().item(), rel=1e-5)

    def test_the_log_has_each_task_at_each_measurement(
        self, make_model, gene_tokenizer, make_stream
    ):
        done = []
        _, log = self.run(
            make_model,
            gene_tokenizer,
            make_stream,
            validation=make_stream(6, seed=9),
            progress=done.append,
        )
        assert done == [1] * 8
        measured = [(e["step"], e["split"], e["task"]) for e in log.losses]
        assert measured == [
            (step, split, t) for step in (3, 6, 8) for split in ("train", "val") for t in TASKS
        ]
        assert all(np.isfinite(e["loss"]) and e["loss"] > 0 for e in log.losses)
        assert log.seconds > 0

    def test_losses_are_those_of_the_examples_drawn(self, make_model, gene_tokenizer, make_stream):
        """With a learning rate of nearly nothing, the log is the mean loss of each task of the stream."""
        model = make_model(gene_tokenizer, spread=0.02)
        stream = make_stream(24, seed=4)
        options = Optimisation(steps=6, batch_size=4, learning_rate=1e-12, eval_every=6)
        log = train(model, stream, options, device="cpu")
        batch = Collator(gene_tokenizer, TASKS, None)(stream.draw(range(24)))
        with torch.no_grad():
            each = response_loss(model.network, batch)
        for number, task in enumerate(TASKS):
            (found,) = [e["loss"] for e in log.losses if e["task"] == task]
            assert found == pytest.approx(each[batch["task"] == number].mean().item(), rel=1e-4)

    def test_the_same_seeds_give_the_same_weights(self, make_model, gene_tokenizer, make_stream):
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002 - global state must not matter
        first, first_log = self.run(make_model, gene_tokenizer, make_stream)
        torch.manual_seed(2)
        np.random.seed(2)  # noqa: NPY002
        again, again_log = self.run(make_model, gene_tokenizer, make_stream)
        assert torch.equal(weights(first), weights(again))
        assert first_log.losses == again_log.losses
        other, _ = self.run(make_model, gene_tokenizer, make_stream, stream_seed=1)
        assert not torch.equal(weights(first), weights(other))

    def test_muon_helps_and_repeats_too(self, make_model, gene_tokenizer, make_stream, collate):
        options = self.options.model_copy(update={"optimizer": "muon"})
        runs = []
        for _ in range(2):
            model = make_model(gene_tokenizer, spread=0.02)
            train(model, make_stream(32), options, device="cpu")
            runs.append(model)
        assert torch.equal(*(weights(model) for model in runs))
        batch = collate(make_stream(20, seed=99).draw(range(20)))
        untrained = make_model(gene_tokenizer, spread=0.02)
        with torch.no_grad():
            before, after = (response_loss(m.network, batch).mean() for m in (untrained, runs[0]))
        assert after < 0.8 * before

    def test_bfloat16_computes_in_it_and_keeps_weights_in_float32(
        self, make_model, gene_tokenizer, make_stream, monkeypatch
    ):
        model = make_model(gene_tokenizer, spread=0.02)
        seen = set()
        model.network.gpt_neox.layers[0].mlp.dense_h_to_4h.register_forward_hook(
            lambda module, inputs, output: seen.add(output.dtype)
        )
        start = weights(model)
        options = self.options.model_copy(update={"bf16": True, "steps": 2})
        train(model, make_stream(8), options, device="cpu")
        assert seen == {torch.bfloat16}
        assert weights(model).dtype == torch.float32
        assert not torch.equal(weights(model), start)

    def test_validation_changes_nothing(self, make_model, gene_tokenizer, make_stream):
        without, _ = self.run(make_model, gene_tokenizer, make_stream)
        with_it, _ = self.run(
            make_model, gene_tokenizer, make_stream, validation=make_stream(6, seed=9)
        )
        assert torch.equal(weights(without), weights(with_it))

    def test_a_stream_that_is_too_short_is_refused(self, make_model, gene_tokenizer, make_stream):
        model = make_model(gene_tokenizer)
        with pytest.raises(UsageError, match="8 steps of 4 need 32 examples, the stream has 31"):
            train(model, make_stream(31), self.options, device="cpu")

    def test_an_example_that_does_not_fit_is_refused(self, make_model, gene_tokenizer, make_stream):
        model = make_model(gene_tokenizer, context=30)
        with pytest.raises(UsageError, match="the model's context is 30; use a smaller top_k"):
            train(model, make_stream(32), self.options, device="cpu")

    def test_a_loss_that_is_no_number_stops_it(self, make_model, gene_tokenizer, make_stream):
        model = make_model(gene_tokenizer)
        with torch.no_grad():
            model.network.get_output_embeddings().weight.fill_(torch.nan)
        with pytest.raises(
            C2SError, match="loss of 'cell_type' is nan at step 3; lower the learning rate"
        ):
            train(model, make_stream(32), self.options, device="cpu")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("steps", 0),
            ("batch_size", 0),
            ("learning_rate", 0),
            ("warmup", 1),
            ("beta2", 1),
            ("clip", 0),
        ],
    )
    def test_settings_that_cannot_work_are_named(self, field, value):
        with pytest.raises(UsageError, match=f"recipe: {field} = {value}: input should be "):
            Optimisation.parse({"steps": 5, field: value}, "recipe")


def test_the_trained_model_ends_its_answers(model: Model, cell_table):
    """Behind a label the model of the other tests expects the end, and nothing else."""
    wording = load_prompts("c2s").wording("cell_type")
    tokenizer = model.tokenizer
    for label in ("beta", "acinar"):
        cell = np.arange(10)
        prompt = CELL_TYPE.ask(wording.prompts[0], {"organism": "Homo sapiens"}, cell, 10)
        ids = [*tokenizer.encode(prompt), *tokenizer.encode([f" {label}"])]
        with torch.no_grad():
            after = model.network(torch.tensor([list(map(int, ids))])).logits[0, -1].softmax(-1)
        assert after[tokenizer.eos_id] > 0.9
