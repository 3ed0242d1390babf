"""The three published settings (SPEC §7.2), each with its reward on a small task."""

import pytest
import transformers

#: What is published of each, and a reward and task of the same kind.
PUBLISHED = {
    "l1000": (24, 0.005, 1e-6, "cond_cell", {"name": "kendall_tau", "truth": "rank"}),
    "dong": (32, 0.005, 1e-6, "cond_cell", {"name": "negative_mse"}),
    "scqa": (32, 0.03, 5e-7, "cell_type", {"name": "bertscore", "layer": 1}),
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder with a tiny BERT of random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "alpha", "beta", "acinar", "ductal", "delta"]
    tokens = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder = tmp_path_factory.mktemp("bert")
    special = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
    }
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, **special).save_pretrained(folder)
    shape = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )  # fmt: skip
    transformers.BertModel(shape).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_setting_takes_steps(name, open_run, bert, cut_genes):
    group, beta, rate, task, reward = PUBLISHED[name]
    if reward["name"] == "bertscore":
        reward = {**reward, "folder": str(bert)}
    else:
        reward = {**reward, "genes": list(cut_genes.words[:40])}
    opened = open_run(
        policy={"preset": name, "task": task, "group": None, "beta": None},
        rewards=[reward],
        optimisation={"preset": f"grpo-{name}", "steps": 2, "batch_size": 2, "learning_rate": None},
    )
    arguments = opened.trainer.args
    assert (arguments.num_generations, arguments.learning_rate) == (group, rate)
    assert opened.trainer.beta == beta
    opened.trainer.train()
    steps = [h for h in opened.trainer.state.log_history if "reward" in h]
    assert len(steps) == 2
    assert all(abs(h["reward"]) < 1e3 and h["kl"] < 1e-3 for h in steps)
