"""What a step of alignment draws, rewards and learns, through the trainer itself (SPEC §7.1)."""

import copy
import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from c2s.common.seeds import generator

#: Answers that are a label and its end; rewards are the tests' own.
LABELS = {"policy": {"task": "cell_type", "prompts": "cells"}, "rewards": ["validity"]}


def fixed(*values):
    """Return a reward that gives every group the same values."""
    return lambda rollouts: np.resize(np.array(values, np.float64), len(rollouts.texts))


def noisy(inputs, key, scale):
    """Return numbers like log-probabilities of answers, 0 behind their ends."""
    shape = inputs["completion_mask"].shape
    drawn = generator(0, key).uniform(-scale, scale, shape)
    return torch.tensor(drawn, dtype=torch.float32) * inputs["completion_mask"]


def log_probabilities(opened, inputs, by_hand, network=None):
    """Return, for each answer, log p and entropy of each token, a token at a time."""
    constraint, t = opened.trainer.questions.constraint, opened.trainer.temperature
    return [
        by_hand(network or opened.plain, prompt, answer, constraint, t)
        for prompt, answer in opened.pieces(inputs)
    ]


class TestAdvantages:
    """Check vectors of SPEC §7.1, with TRL's standard deviation over n − 1 and its 1e-4."""

    def test_of_four_rewards(self, open_run):
        opened = open_run().reward(fixed(0.1, 0.2, 0.3, 0.4))
        expected = [-1.160996, -0.386999, 0.386999, 1.160996]
        np.testing.assert_allclose(opened.draw()["advantages"], [*expected, *expected], atol=2e-6)

    def test_groups_are_compared_among_themselves(self, open_run):
        rewards = [0.1, 0.2, 0.3, 0.4, 5.0, 5.0, 5.0, 5.0]
        found = open_run().reward(fixed(*rewards)).draw()["advantages"]
        assert found[:4].abs().min() > 0.3
        assert (found[4:] == 0).all()

    @pytest.mark.parametrize("scale", ["batch", "none"])
    def test_scales(self, scale, open_run):
        rewards = np.array([0.1, 0.2, 0.3, 0.4, 1.0, 2.0, 3.0, 6.0])
        found = open_run(policy={"scale": scale}).reward(fixed(*rewards)).draw()["advantages"]
        centred = rewards - np.repeat([0.25, 3.0], 4)
        by = rewards.std(ddof=1) + 1e-4 if scale == "batch" else 1.0
        np.testing.assert_allclose(found, centred / by, rtol=1e-5, atol=1e-6)

    def test_weights_and_a_group_that_cannot_be_judged(self, open_run):
        """A reward that is no number for a group leaves it to the others, or to nobody."""
        opened = open_run(rewards=[{"name": "validity", "weight": 2.0}, "length"])
        values = np.array([[0, 0, 1, 0, np.nan, np.nan, np.nan, np.nan],
                           [1, 0, 0, 3, np.nan, np.nan, np.nan, np.nan]])  # fmt: skip
        opened.trainer.rewards = [
            type(r)(r.name, r.weight, lambda _, k=k: values[k]) for k, r in enumerate(opened.trainer.rewards)
        ]  # fmt: skip
        found = opened.draw()["advantages"]
        sums = 2 * values[0, :4] + values[1, :4]
        np.testing.assert_allclose(
            found[:4], (sums - sums.mean()) / (sums.std(ddof=1) + 1e-4), rtol=1e-5
        )
        assert (found[4:] == 0).all()


class TestLogProbabilities:
    @pytest.mark.parametrize(
        "changes",
        [{}, {"policy": {"temperature": 0.6}}, LABELS, {"policy": {"constrained": False}}],
        ids=["cells", "temperature", "labels", "free"],
    )
    def test_are_those_of_what_was_drawn_from(self, changes, open_run, by_hand):
        """Policy, old policy and reference, for prompts padded on the left, equal a token-by-token computation."""
        policy = {**changes.get("policy", {}), "iterations": 2}
        opened = open_run(**{**changes, "policy": policy})
        inputs = opened.reward(fixed(1, 2, 3, 4)).draw(first=2)
        assert len(set(inputs["prompt_mask"].sum(1).tolist())) == 2
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        found, entropies, _ = opened.trainer._get_per_token_logps_and_entropies(
            opened.trainer.model, ids, mask, inputs["completion_ids"].shape[1], compute_entropy=True
        )
        expected = log_probabilities(opened, inputs, by_hand)
        for row, (chosen, entropy) in enumerate(expected):
            n = len(chosen)
            torch.testing.assert_close(found[row, :n], chosen, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(entropies[row, :n], entropy, atol=1e-5, rtol=1e-4)
            assert (found[row, n:] == 0).all()
        # Before the first step all three are one network.
        torch.testing.assert_close(inputs["old_per_token_logps"], found, atol=0, rtol=0)
        torch.testing.assert_close(inputs["ref_per_token_logps"], found, atol=0, rtol=0)

    def test_what_cannot_be_otherwise_is_certain(self, open_run):
        inputs = open_run(**LABELS).reward(fixed(1, 2, 3, 4)).draw()
        assert (inputs["completion_mask"].sum(1) == 2).all()
        assert (inputs["ref_per_token_logps"][:, 1] == 0).all()  # the end of a label
        assert (inputs["ref_per_token_logps"][:, 0] < 0).all()

    @pytest.mark.parametrize("lora", [None, {"dropout": 0.3}])
    def test_dropout_of_the_base_is_off(self, lora, open_run, restless_folder):
        opened = open_run(base={"model": str(restless_folder)}, lora=lora)
        inputs = opened.reward(fixed(1, 2, 3, 4)).draw()
        _, logged = opened.loss(inputs)
        assert logged["kl"] == 0
        # And what is saved still has it.
        assert opened.model.network.config.attention_dropout == 0.3

    def test_layers_that_are_computed_again_change_nothing(self, open_run):
        found = []
        for again in (False, True):
            opened = open_run(base={"gradient_checkpointing": again}).reward(fixed(1, 2, 3, 4))
            inputs = opened.draw()
            loss, _ = opened.loss(inputs)
            found.append((loss, [p.grad.clone() for p in opened.model.network.parameters()]))
        assert found[0][0] == found[1][0]
        for one, two in zip(found[0][1], found[1][1], strict=True):
            torch.testing.assert_close(one, two, atol=1e-7, rtol=1e-5)


def surrogate(chosen, old, advantage, low, high):
    """Return min(ρ Â, clip(ρ) Â) of each token (SPEC §7.1)."""
    ratio = (chosen - old).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def k3(chosen, reference):
    """Return π_ref/π − log(π_ref/π) − 1 of each token (SPEC §7.1)."""
    return (reference - chosen).exp() - (reference - chosen) - 1


class TestLoss:
    def test_divergence_at_the_check_vectors(self, open_run):
        opened = open_run(policy={"beta": 0.7}).reward(fixed(1, 1, 1, 1))
        inputs = opened.draw()
        own = inputs["ref_per_token_logps"].clone()
        for shift, expected in ((-0.5, 0.106531), (0.0, 0.0), (0.5, 0.148721)):
            inputs["ref_per_token_logps"] = own + shift
            loss, logged = opened.loss(inputs)
            assert logged["kl"] == pytest.approx(expected, abs=1e-6)
            # Nothing else is left where no answer is better than another.
            assert loss == pytest.approx(0.7 * expected, abs=1e-6)

    def test_equal_answers_leave_only_the_divergence(self, open_run):
        opened = open_run(policy={"beta": 0.0}).reward(fixed(3, 3, 3, 3))
        inputs = opened.draw()
        assert "ref_per_token_logps" not in inputs
        loss, _ = opened.loss(inputs)
        assert loss == 0
        assert all((p.grad == 0).all() for p in opened.model.network.parameters())

    @pytest.mark.parametrize("constrained", [True, False])
    def test_is_the_objective_by_hand(self, constrained, open_run, by_hand):
        """SPEC §7.1's J and its gradient, with ratios beyond the clip, and answers of unlike lengths."""
        opened = open_run(policy={"constrained": constrained, "epsilon_high": 0.3, "beta": 0.4})
        inputs = opened.reward(fixed(1, 2, 3, 7)).draw(first=2)
        assert (len(set(inputs["completion_mask"].sum(1).tolist())) == 1) == constrained
        own = inputs["ref_per_token_logps"].clone()
        inputs["old_per_token_logps"] = own + noisy(inputs, "old", 0.5)
        inputs["ref_per_token_logps"] = own + noisy(inputs, "reference", 0.5)
        loss, logged = opened.loss(inputs)
        assert logged["clip_ratio/low_mean"] > 0.02
        assert logged["clip_ratio/high_mean"] > 0.02

        total = torch.zeros(())
        for row, (chosen, _) in enumerate(log_probabilities(opened, inputs, by_hand)):
            n = len(chosen)
            old, reference = (inputs[f"{k}_per_token_logps"][row, :n] for k in ("old", "ref"))
            gain = surrogate(chosen, old, inputs["advantages"][row], 0.2, 0.3)
            total = total + (gain - 0.4 * k3(chosen, reference)).mean()
        expected = -total / len(inputs["advantages"])
        expected.backward()
        assert loss == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
        mine = dict(opened.model.network.named_parameters())
        for name, parameter in opened.plain.named_parameters():
            torch.testing.assert_close(mine[name].grad, parameter.grad, atol=2e-6, rtol=1e-3, msg=name)  # fmt: skip

    @pytest.mark.parametrize(
        ("loss", "high", "expected"),
        [
            ("dr_grpo", None, lambda s, x: s["clipped"].sum() / (8 * x.max_completion_length)),
            ("bnpo", None, lambda s, x: s["clipped"].sum() / s["n"].sum()),
            ("dapo", 0.28, lambda s, x: s["clipped"].sum() / s["n"].sum()),
            ("luspo", None, lambda s, x: s["clipped"].sum() / 8),
            # The ratio is a weight, cut at 1 + ε, and has no gradient.
            ("cispo", 0.1, lambda s, x: (s["ratio"].clip(max=1.1) * s["a"] * s["p"]).sum() / s["n"].sum()),
            ("sapo", None, lambda s, x: (s["soft"].sum(1) / s["n"]).mean()),
        ],
    )  # fmt: skip
    def test_other_losses(self, loss, high, expected, open_run):
        opened = open_run(
            policy={"constrained": False, "beta": 0.0, "loss": loss, "epsilon_high": high}
        ).reward(fixed(1, 2, 3, 7))
        inputs = opened.draw()
        inputs["old_per_token_logps"] = torch.zeros_like(noisy(inputs, "old", 0.5))
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        with torch.no_grad():
            chosen = opened.trainer._get_per_token_logps_and_entropies(
                opened.trainer.model, ids, mask, inputs["completion_ids"].shape[1]
            )[0]
        inputs["old_per_token_logps"] = chosen + noisy(inputs, "old", 0.5)
        found, _ = opened.loss(inputs)
        there, p = inputs["completion_mask"].numpy(), chosen.double().numpy()
        a = inputs["advantages"].double().numpy()[:, None]
        ratio = np.exp(p - inputs["old_per_token_logps"].double().numpy())
        top = 1 + (high or 0.2)
        cooling = np.where(a > 0, 1.0, 1.05)  # TRL's temperatures of SAPO
        terms = {
            "n": there.sum(1), "a": a, "p": p * there, "ratio": ratio,
            "clipped": np.minimum(ratio * a, ratio.clip(0.8, top) * a) * there,
            "soft": 4 / cooling / (1 + np.exp(-cooling * (ratio - 1))) * a * there,
        }  # fmt: skip
        assert found == pytest.approx(-expected(terms, opened.trainer), rel=1e-4, abs=1e-6)

    def test_ratio_of_whole_answers(self, open_run):
        opened = open_run(policy={"constrained": False, "beta": 0.0, "ratio": "sequence"})
        inputs = opened.reward(fixed(1, 2, 3, 7)).draw()
        shift = noisy(inputs, "old", 1.0)
        inputs["old_per_token_logps"] = self.own(opened, inputs) - shift
        found, _ = opened.loss(inputs)
        n = inputs["completion_mask"].sum(1)
        ratio, a = (shift.sum(1) / n).exp(), inputs["advantages"]
        expected = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a).mean()
        assert found == pytest.approx(-expected.item(), rel=1e-4, abs=1e-6)

    def test_divergence_by_the_ratio(self, open_run):
        """By default it is not weighted, unlike TRL's: neither its value nor, at a ratio of 1, its gradient."""
        found, gradients = {}, {}
        for name in ("k3", "weighted"):
            opened = open_run(policy={"divergence": name}).reward(fixed(1, 1, 1, 1))
            inputs = opened.draw()
            own, shift = inputs["ref_per_token_logps"].clone(), noisy(inputs, "old", 1.0)
            inputs["ref_per_token_logps"] = own + noisy(inputs, "reference", 1.0)
            opened.loss(inputs)
            gradients[name] = opened.model.network.get_output_embeddings().weight.grad.clone()
            inputs["old_per_token_logps"] = own - shift
            found[name] = opened.loss(inputs)[1]["kl"]
        each = k3(own, inputs["ref_per_token_logps"])
        assert found["k3"] == pytest.approx(each.mean().item(), rel=1e-4)
        assert found["weighted"] == pytest.approx((each * shift.exp()).mean().item(), rel=1e-4)
        assert not torch.allclose(gradients["k3"], gradients["weighted"], rtol=0.1)

    def test_entropy_is_a_bonus(self, open_run):
        losses = {}
        for weight in (0.0, 0.3):
            opened = open_run(policy={"entropy": weight}).reward(fixed(1, 2, 3, 7))
            losses[weight], logged = opened.loss(opened.draw())
        assert logged["entropy"] > 1
        assert losses[0.3] == pytest.approx(losses[0.0] - 0.3 * logged["entropy"], rel=1e-5)

    @pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["whole", "adapter"])
    def test_what_the_constraint_hides_is_held_too(self, lora, open_run):
        """KL of the choice between allowed and forbidden tokens, by hand; learned from, it falls."""
        changed = {"policy": {"beta_allowed": 0.3}, "lora": lora}
        opened = open_run(**changed).reward(fixed(1, 1, 1, 1))
        inputs = opened.draw(first=2)
        _, logged = opened.loss(inputs)
        assert logged["kl_allowed"] == logged["kl"] == 0
        expected = self.shares(opened.plain, opened, inputs)
        assert logged["allowed"] == pytest.approx(np.concatenate(expected).mean(), rel=1e-4)

        # The reference stays what it was where the policy goes.
        with torch.no_grad():
            for parameter in opened.model.network.parameters():
                if parameter.requires_grad:
                    parameter += 0.05 * torch.randn(parameter.shape, generator=torch.manual_seed(3))
        inputs = opened.draw(first=2)
        loss, logged = opened.loss(inputs)
        # Of adapters only what is saved and opened again is the whole network.
        q = [np.concatenate(self.shares(opened.plain, opened, inputs))]
        if lora is None:
            now = copy.deepcopy(opened.model.network)
            del now.forward
            p = np.concatenate(self.shares(now, opened, inputs))
            by_hand = (p * np.log(p / q[0]) + (1 - p) * np.log((1 - p) / (1 - q[0]))).mean()
            assert logged["kl_allowed"] == pytest.approx(by_hand, rel=1e-3)
        there = inputs["completion_mask"].bool()
        np.testing.assert_allclose(inputs["ref_log_allowed"][there].exp(), q[0], rtol=1e-4)
        assert loss == pytest.approx(0.05 * logged["kl"] + 0.3 * logged["kl_allowed"], rel=1e-4)

        # It is learned from: the loss has more of a gradient than without it.
        with_it = [p.grad.clone() for p in opened.model.network.parameters() if p.grad is not None]
        opened.trainer.beta_allowed = 0.0
        without, _ = opened.loss(inputs)
        assert without == pytest.approx(0.05 * logged["kl"], rel=1e-4)
        alone = [p.grad for p in opened.model.network.parameters() if p.grad is not None]
        assert max((one - two).abs().max() for one, two in zip(with_it, alone, strict=True)) > 1e-4

    def test_what_is_allowed_is_measured_on_held_out_cells(self, open_run):
        """The mean over tokens, by hand, behind prompts of unlike lengths, some rows at a time."""
        opened = open_run(policy={"answers_per_pass": 3}, evaluation={"cells": 20, "labels": 0})
        measure = opened.trainer.measure
        numbers = measure._numbers.tolist()
        answers = measure.questions.write(numbers, list(range(len(numbers))), 1.0)
        pairs = [
            (measure.questions.question(n).ids.tolist(), a.tolist())
            for n, a in zip(numbers, answers, strict=True)
        ]
        assert len({len(prompt) for prompt, _ in pairs}) > 1
        opened.pieces = lambda pairs: pairs
        expected = np.concatenate(self.shares(opened.plain, opened, pairs)).mean()
        assert measure()["allowed"] == pytest.approx(expected, rel=1e-5)

    @staticmethod
    def shares(network, opened, inputs):
        """Return, for each answer, the probability of what was allowed at each token."""
        constraint, t, found = opened.trainer.questions.constraint, opened.trainer.temperature, []
        for prompt, answer in opened.pieces(inputs):
            state, own = constraint.start(), []
            with torch.no_grad():
                logits = network(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 :]
            for place, token in enumerate(answer):
                p = torch.softmax(logits[place] / t, 0)
                own.append(p[state.allowed().tolist()].sum().item())
                state.advance(token)
            found.append(np.array(own))
        return found

    def test_vespo_weighs_answers_by_their_ratio(self, open_run):
        opened = open_run(policy={"loss": "vespo", "beta": 0.0}).reward(fixed(1, 2, 3, 7))
        inputs = opened.draw()
        loss, logged = opened.loss(inputs)
        # At a ratio of 1 the weight is 1: the plain policy gradient.
        assert logged["vespo/phi_seq_mean"] == pytest.approx(1)
        p = self.own(opened, inputs)
        assert loss == pytest.approx(-(p * inputs["advantages"][:, None]).mean().item(), rel=1e-4)

    @staticmethod
    def own(opened, inputs):
        """Return log p of the answers now, which the tests above hold equal to those by hand."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        with torch.no_grad():
            return opened.trainer._get_per_token_logps_and_entropies(
                opened.trainer.model, ids, mask, inputs["completion_ids"].shape[1]
            )[0]


class TestRollouts:
    def test_have_the_frequencies_of_the_policy(self, open_run, by_hand):
        """Both draws and probabilities at a temperature: labels, and the first genes of cells."""
        n = 600
        for changes in (LABELS, {"policy": {"genes": 1}}):
            policy = {**changes["policy"], "temperature": 1.7}
            opened = open_run(**{**changes, "policy": policy})
            asked, constraint = opened.trainer.questions, opened.trainer.questions.constraint
            written = asked.write([3] * n, range(n), 1.7)
            prompt = asked.question(3).ids.tolist()
            state = constraint.start()
            every = [[t] + ([0] if changes is LABELS else []) for t in state.allowed().tolist()]
            p = np.array([
                by_hand(opened.plain, prompt, answer, constraint, 1.7)[0].sum().exp().item() for answer in every
            ])  # fmt: skip
            assert p.sum() == pytest.approx(1, abs=1e-5)
            place = {tuple(answer): k for k, answer in enumerate(every)}
            seen = np.bincount([place[tuple(a.tolist())] for a in written], minlength=len(every))
            often = p * n >= 5
            observed = [*seen[often], seen[~often].sum()]
            expected = [*(p[often] * n), p[~often].sum() * n]
            keep = np.array(expected) > 0.5
            observed, expected = np.array(observed)[keep], np.array(expected)[keep]
            assert len(expected) > 2
            assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3  # fmt: skip

    def test_do_not_depend_on_the_batch(self, open_run):
        asked = open_run().trainer.questions
        pairs = list(itertools.product(range(5), range(4)))
        whole = asked.write([n for n, _ in pairs], [c for _, c in pairs], 1.0)
        order = generator(0).permutation(len(pairs))
        for at in np.array_split(order, 3):
            part = asked.write([pairs[k][0] for k in at], [pairs[k][1] for k in at], 1.0)
            for k, answer in zip(at, part, strict=True):
                assert answer.tolist() == whole[k].tolist()
        assert len({a.tobytes() for a in whole}) == len(pairs)

    def test_every_answer_is_the_next_of_its_group(self, open_run):
        """As `write` draws them by question and number in the group, and rewards see groups whole and in order."""
        opened, seen = open_run(), []

        def reward(rollouts):
            seen.append(rollouts)
            return np.arange(len(rollouts.texts), dtype=np.float64)

        inputs = opened.reward(reward).draw(first=6)
        expected = opened.trainer.questions.write([6] * 4 + [7] * 4, [0, 1, 2, 3] * 2, 1.0)
        found = [answer for _, answer in opened.pieces(inputs)]
        assert found == [a.tolist() for a in expected]
        assert seen[0].group.tolist() == [0] * 4 + [1] * 4
        assert seen[0].texts == [opened.trainer.questions.text(a) for a in expected]
        own = [opened.model.tokenizer.decode(a) for a in found]
        assert [t.split() for t in seen[0].texts] == [t.split() for t in own]

    def test_all_conditions_are_asked_equally_often(self, open_run):
        asked = open_run().trainer.questions
        n = asked.n_of_epoch
        assert n == 5
        for epoch in range(3):
            found = [asked.question(epoch * n + k).condition for k in range(n)]
            assert sorted(found) == list(range(n))


class TestIterations:
    def test_old_is_before_the_first_of_both_steps(self, open_run):
        opened = open_run(
            policy={"iterations": 2}, optimisation={"batch_size": 2, "learning_rate": 0.01}
        )
        trainer, seen, own = opened.trainer, [], TestLoss.own
        compute = trainer._compute_loss

        def watched(model, inputs):
            weights = copy.deepcopy(opened.model.network.state_dict())
            seen.append((weights, {k: v.clone() for k, v in inputs.items()}, own(opened, inputs)))
            return compute(model, inputs)

        trainer._compute_loss = watched
        trainer.train()
        assert len(seen) == 4
        for first, second in ((0, 1), (2, 3)):
            (_, one, before), (_, two, after) = seen[first], seen[second]
            assert one["completion_ids"].equal(two["completion_ids"])
            assert one["old_per_token_logps"].equal(two["old_per_token_logps"])
            torch.testing.assert_close(one["old_per_token_logps"], before, atol=1e-6, rtol=0)
            assert (after - two["old_per_token_logps"]).abs().max() > 0.01
            # The reference stays what training began with.
            opened.model.network.load_state_dict(seen[0][0])
            torch.testing.assert_close(
                own(opened, one), one["ref_per_token_logps"], atol=1e-5, rtol=1e-4
            )
        assert not seen[0][1]["completion_ids"].equal(seen[2][1]["completion_ids"])

    def test_passes_change_nothing(self, open_run):
        """A step is the mean over its answers, however many go through the network at a time."""
        gradients = []
        for size in (8, 2):
            opened = open_run(
                policy={"answers_per_pass": size}, optimisation={"steps": 1, "batch_size": 2}
            )
            found = {}
            clip = opened.trainer._clip_grad_norm

            def kept(model, found=found, clip=clip, opened=opened):
                found |= {n: p.grad.clone() for n, p in opened.model.network.named_parameters()}
                return clip(model)

            opened.trainer._clip_grad_norm = kept
            opened.trainer.train()
            assert opened.trainer.args.gradient_accumulation_steps == 8 // size
            gradients.append(found)
        for name, one in gradients[0].items():
            torch.testing.assert_close(one, gradients[1][name], atol=1e-6, rtol=1e-3, msg=name)
