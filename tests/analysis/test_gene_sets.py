"""Gene sets: named in the model's own words or from a list, and listed in genes that it knows."""

import numpy as np
import pytest

import c2s
from c2s.common.errors import C2SWarning, InputError, UsageError
from c2s.decoding.engine import TransformersEngine


def prompt_of(model, task, **values):
    return "".join(model.prompts.wording(task).prompts[0].fill(values))


def log_probability(model, prompt, answer, end=True):
    """log p of a text behind another, from one plain pass over both."""
    import torch

    start = model.tokenizer.backend(prompt)["input_ids"]
    ids = [*start, *model.tokenizer.backend(answer)["input_ids"]]
    ids += [model.tokenizer.eos_id] if end else []
    with torch.no_grad():
        steps = model.network(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(steps[at - 1, ids[at]].item() for at in range(len(start), len(ids)))


class TestName:
    def test_in_its_own_words(self, sample_model, gene_sets):
        for name, genes in gene_sets.items():
            found = c2s.tl.name_gene_set(genes, sample_model)
            assert found.name == name
            assert found.ended
            assert found.probabilities is None
            prompt = prompt_of(
                sample_model, "gene_set_name", genes=" ".join(genes), num_genes=len(genes)
            )
            wanted = np.exp(log_probability(sample_model, prompt, f" {name}"))
            assert found.probability == pytest.approx(wanted, rel=1e-4)

    def test_is_cut_off_with_a_warning(self, sample_model, gene_sets):
        genes = gene_sets["islet hormones"]
        with pytest.warns(C2SWarning, match="cut off after 2 tokens"):
            found = c2s.tl.name_gene_set(genes, sample_model, max_tokens=2)
        assert not found.ended
        assert "islet hormones".startswith(found.name)
        with pytest.raises(UsageError, match="at most 1 tokens"):
            c2s.tl.name_gene_set(genes, sample_model, max_tokens=1)

    def test_at_a_temperature_the_seed_decides(self, sample_model):
        genes = ["INS", "KRT8", "RPL10"]
        answers = [
            c2s.tl.name_gene_set(genes, sample_model, temperature=2.0, seed=s).name
            for s in (0, 0, 1, 2, 3)
        ]
        assert answers[0] == answers[1]
        assert len(set(answers)) > 1

    def test_chosen_from_names_by_exact_probability(self, sample_model, gene_sets):
        genes, names = gene_sets["keratins"], [*gene_sets, "anything else"]
        found = c2s.tl.name_gene_set(genes, sample_model, names)
        prompt = prompt_of(sample_model, "gene_set_name", genes=" ".join(genes), num_genes=4)
        logs = np.array([log_probability(sample_model, prompt, f" {n}") for n in names])
        wanted = dict(zip(names, np.exp(logs) / np.exp(logs).sum(), strict=True))
        assert found.name == "keratins"
        assert found.probability == pytest.approx(wanted["keratins"], rel=1e-4)
        assert found.probabilities.to_dict() == pytest.approx(wanted, rel=1e-3)
        assert found.probabilities.is_monotonic_decreasing

    def test_names_may_be_an_array(self, sample_model, gene_sets):
        genes, names = gene_sets["keratins"], np.array(["ribosome", "keratins"])
        assert c2s.tl.name_gene_set(genes, sample_model, names).name == "keratins"

    def test_genes_are_known_in_any_case_once_each(self, sample_model):
        one = c2s.tl.name_gene_set(["INS", "GCG"], sample_model, ["a", "b"])
        with pytest.warns(C2SWarning, match="does not know 1 of 3 genes: NOGENE"):
            two = c2s.tl.name_gene_set(["ins", "nogene", "Gcg", "INS"], sample_model, ["a", "b"])
        assert two.probability == one.probability

    def test_what_cannot_work(self, sample_model, model):
        name = c2s.tl.name_gene_set
        with pytest.raises(UsageError, match="not trained on 'gene_set_name'; its tasks: cell_t"):
            name(["INS"], model)
        with pytest.raises(InputError, match="knows none of the 1 genes.*nearest to GCGG: GCG"):
            name(["GCGG"], sample_model)
        with pytest.raises(InputError, match="knows none of the 0 genes"):
            name([], sample_model)
        with pytest.raises(UsageError, match="genes must be a list"):
            name("INS", sample_model)
        with pytest.raises(UsageError, match="must be a list of texts"):
            name(["INS"], sample_model, "hormones")
        with pytest.raises(UsageError, match="must be different texts"):
            name(["INS"], sample_model, ["a", "a"])


class TestEnumerate:
    def test_lists_what_it_was_taught_in_order(self, sample_model, gene_sets):
        for name, genes in gene_sets.items():
            assert c2s.tl.enumerate_gene_set(name, sample_model, n=len(genes)) == genes

    def test_exactly_as_many_as_asked_for_none_twice(self, sample_model):
        found = c2s.tl.enumerate_gene_set("keratins", sample_model, n=30)
        assert len(set(found)) == len(found) == 30
        assert set(found) <= set(sample_model.vocabulary.words)

    def test_or_to_its_own_end(self, sample_model, gene_sets):
        found = c2s.tl.enumerate_gene_set("keratins", sample_model, n=40, own_end=True)
        assert found == gene_sets["keratins"]
        short = c2s.tl.enumerate_gene_set("digestive enzymes", sample_model, n=3, own_end=True)
        assert len(short) <= 3

    def test_only_from_a_panel(self, sample_model):
        panel = ["KRT8", "KRT7", "INS", "RPL3"]
        with pytest.warns(C2SWarning, match="NOGENE"):
            found = c2s.tl.enumerate_gene_set(
                "keratins", sample_model, n=4, genes=[*panel, "NOGENE"]
            )
        assert sorted(found) == sorted(panel)
        assert found[0].startswith("KRT")
        asked = c2s.tl.enumerate_gene_set("keratins", sample_model, n=50, own_end=True, genes=panel)
        assert set(asked) <= set(panel)

    def test_at_a_temperature_the_seed_decides(self, sample_model):
        lists = [
            c2s.tl.enumerate_gene_set("keratins", sample_model, n=8, temperature=2.0, seed=s)
            for s in (0, 0, 1)
        ]
        assert lists[0] == lists[1] != lists[2]

    def test_what_cannot_work(self, sample_model, model):
        with pytest.raises(UsageError, match="not trained on 'gene_set_enum'"):
            c2s.tl.enumerate_gene_set("keratins", model)
        with pytest.raises(UsageError, match="n=0 is not possible"):
            c2s.tl.enumerate_gene_set("keratins", sample_model, n=0)
        with pytest.raises(UsageError, match="the name of the gene set is empty"):
            c2s.tl.enumerate_gene_set(" ", sample_model)
        with pytest.raises(UsageError, match="cannot be made of 140 genes"):
            c2s.tl.enumerate_gene_set("keratins", sample_model, n=141)

    @pytest.mark.parametrize("own_end", [False, True])
    def test_the_wording_around_the_genes_is_that_of_training(
        self, own_end, gene_tokenizer, make_model, monkeypatch
    ):
        """The answer begins behind what stands before the genes, and ends with what stands behind them."""
        texts = {"prompts": ["List genes of {gene_set}:"], "response": " In it are {genes}."}
        card = {"tasks": ["gene_set_enum"], "prompts": "own", "wording": {"gene_set_enum": texts}}
        model = make_model(gene_tokenizer, card=card)
        asked = []
        plain = TransformersEngine.generate

        def generate(engine, prompts, constraint, *args):
            asked.append((prompts[0], constraint.end_token))
            return plain(engine, prompts, constraint, *args)

        monkeypatch.setattr(TransformersEngine, "generate", generate)
        found = c2s.tl.enumerate_gene_set("islet hormones", model, n=3, own_end=own_end)
        assert 1 <= len(found) <= 3
        [(prompt, end)] = asked
        genes = model.vocabulary.columns(found)
        whole = model.tokenizer.encode(["List genes of islet hormones: In it are ", genes, "."])
        assert prompt.tolist() == whole[: -len(genes) - 1].tolist()
        assert end == whole[-1]
