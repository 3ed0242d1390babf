"""The policy of constrained answers: the network's distribution renormalised to what is allowed (SPEC §7)."""

import copy
import itertools

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from c2s.cells.vocabulary import GeneVocabulary
from c2s.constraints.replay import choices_of
from c2s.constraints.trie import GeneSentence, TokenTrie
from c2s.training.grpo.policy import (
    Places,
    add_policy_head,
    allowed_divergence,
    constrained_log_probabilities,
)

WORDS = ["INS", "GCG", "IFI6", "IFI6X", "SST"]
ARCHITECTURES = ["gpt_neox", "gpt2", "llama", "gemma2"]


@pytest.fixture(scope="module", params=["text", "genes"])
def tokenizer(request, make_tokenizer):
    return make_tokenizer(GeneVocabulary.from_words(WORDS), request.param)


@pytest.fixture(scope="module")
def sentence(tokenizer):
    pieces = [tokenizer.gene_pieces(g) for g in range(len(WORDS))]
    return GeneSentence(TokenTrie(pieces), 2, tokenizer.eos_id)


def every_answer(constraint):
    """Return all answers of a constraint, by walking its states."""
    found, open_paths = [], [[]]
    while open_paths:
        path = open_paths.pop()
        state = constraint.start()
        for token in path:
            state.advance(token)
        if state.done:
            found.append(path)
        else:
            open_paths += [[*path, int(t)] for t in state.allowed()]
    return found


def ask(network, prompts, answers, constraint, **wanted):
    """Return what the policy head gives, prompts padded on the left and answers on the right."""
    longest, most = max(map(len, prompts)), max(map(len, answers))
    ids = torch.zeros(len(prompts), longest + most, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, longest - len(prompt) : longest + len(answer)] = torch.tensor([*prompt, *answer])
        mask[row, longest - len(prompt) : longest + len(answer)] = 1
    places = Places.of(choices_of(constraint, [np.array(a) for a in answers]), most, ids.device)
    return network(
        input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), places=places, **wanted
    )  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_probabilities_are_those_by_hand_and_of_all_answers_add_up_to_one(
    architecture, tokenizer, sentence, make_network, by_hand
):
    network = make_network(architecture, tokenizer)
    plain = copy.deepcopy(network)
    add_policy_head(network, 0.7)
    answers = every_answer(sentence)
    # All ordered pairs, and "IFI6" then "X…" is never one of them.
    assert len(answers) == len(list(itertools.permutations(WORDS, 2)))
    text = tokenizer.encode_english("Write a cell: ").tolist()
    prompts = [text[: 2 + i % (len(text) - 1)] for i in range(len(answers))]
    chosen, entropy, _ = ask(network, prompts, answers, sentence)
    for row in range(0, len(answers), 7):
        expected, spread = by_hand(plain, prompts[row], answers[row], sentence, 0.7)
        n = len(answers[row])
        torch.testing.assert_close(chosen[row, :n], expected, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(entropy[row, :n], spread, atol=2e-5, rtol=1e-4)
        assert (chosen[row, n:] == 0).all()
        assert (entropy[row, n:] == 0).all()
    total = ask(network, [text] * len(answers), answers, sentence)[0].sum(1).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-5)
    # Without places the forward pass is what it was.
    ids = torch.tensor([text])
    torch.testing.assert_close(network(ids).logits, plain(ids).logits, atol=0, rtol=0)


@pytest.mark.parametrize("architecture", ["gpt_neox", "gemma2"])
def test_how_probable_what_is_allowed_is_without_the_constraint(
    architecture, tokenizer, sentence, make_network
):
    network = make_network(architecture, tokenizer)
    plain = copy.deepcopy(network)
    add_policy_head(network, 0.7)
    prompt = tokenizer.encode_english("Write a cell: ").tolist()
    answers = every_answer(sentence)[::5]
    found = ask(network, [prompt] * len(answers), answers, sentence, unconstrained=True)[2]
    found.sum().backward()
    loss = torch.zeros(())
    for row, answer in enumerate(answers):
        state = sentence.start()
        for place, token in enumerate(answer):
            ids = torch.tensor([prompt + answer[:place]])
            p = torch.softmax(plain(ids).logits[0, -1] / 0.7, 0)
            share = p[state.allowed().tolist()].sum()
            assert found[row, place].item() == pytest.approx(share.log().item(), abs=2e-5)
            loss = loss + share.log()
            state.advance(token)
        assert (found[row, len(answer) :] == 0).all()
    loss.backward()
    for (name, one), two in zip(network.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=5e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("architecture", ["gpt_neox", "gemma2"])
def test_gradients_are_those_by_hand(architecture, tokenizer, sentence, make_network, by_hand):
    network = make_network(architecture, tokenizer)
    plain = copy.deepcopy(network)
    add_policy_head(network, 1.0)
    prompt = tokenizer.encode_english("Write a cell: ").tolist()
    answers = every_answer(sentence)[::5]
    weights = torch.linspace(-1, 1, len(answers))
    chosen, entropy, _ = ask(network, [prompt] * len(answers), answers, sentence)
    ((chosen.sum(1) + 0.3 * entropy.sum(1)) * weights).sum().backward()
    loss = torch.zeros(())
    for answer, weight in zip(answers, weights, strict=True):
        expected, spread = by_hand(plain, prompt, answer, sentence, 1.0)
        loss = loss + weight * (expected.sum() + 0.3 * spread.sum())
    loss.backward()
    for (name, one), two in zip(network.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=2e-5, rtol=1e-3, msg=name)


def test_divergence_of_the_allowed():
    p, q = np.array([0.9, 0.5, 0.2]), np.array([0.9, 0.8, 0.01])
    logs = torch.tensor(np.log(p), requires_grad=True)
    found = allowed_divergence(logs, torch.tensor(np.log(q)))
    expected = [entropy([a, 1 - a], [b, 1 - b]) for a, b in zip(p, q, strict=True)]
    np.testing.assert_allclose(found.detach(), expected, atol=1e-12)
    # Certainty on one side is far, and no infinity; on both it is near.
    sure = torch.tensor([0.0, -1.0, 0.0], requires_grad=True)
    ends = allowed_divergence(sure, torch.tensor([0.0, 0.0, -1.0]))
    ends.sum().backward()
    assert torch.isfinite(sure.grad).all()
    assert ends[0] == 0
    assert (ends[1:] > 0.9).all()
    assert torch.isfinite(ends).all()


def test_scores_made_in_parts_are_the_same(tokenizer, sentence):
    answers = every_answer(sentence)
    places = Places.of(
        choices_of(sentence, [np.array(a) for a in answers]),
        max(map(len, answers)),
        torch.device("cpu"),
    )
    found = []
    for held in (1 << 20, 3 * len(places.tokens)):
        torch.manual_seed(0)
        head = torch.nn.Linear(16, len(tokenizer.backend))
        hidden = torch.randn(*places.taken.shape, 16, requires_grad=True)
        chosen, entropy = constrained_log_probabilities(hidden, head, places, held=held)
        (chosen.sum() + entropy.square().sum()).backward()
        found.append((chosen, entropy, hidden.grad, head.weight.grad, head.bias.grad))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)
