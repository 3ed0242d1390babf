"""Tokens are gathered, never made from text; they are what the tokenizers of real models make of the text."""

import json
import os
from importlib.util import find_spec

import numpy as np
import pytest

from c2s.common.errors import InputError, UsageError
from c2s.corpus.shards import TokenShard
from c2s.corpus.show import show_samples
from c2s.tasks.prompts import load_prompts
from c2s.tasks.registry import TASKS

NAMES = ("gpt-neox", "gemma", "smollm2")


@pytest.fixture(scope="module")
def of_real(real_tokenizers, write_recipe, build):
    """Return a function that builds a corpus of all tasks with a real tokenizer, once each."""
    built = {}

    def make(name):
        if name not in built:
            changes = {
                "tokenizer": str(real_tokenizers / name),
                "samples_per_cell": 1,
                "context": 1200,
            }
            built[name] = build(write_recipe(name, **changes))
        return built[name]

    return make


def shards(corpus):
    return [TokenShard(p) for p in sorted(corpus.glob("tokens/*/*.arrow"))]


@pytest.mark.parametrize("name", NAMES)
def test_every_other_sample_is_what_the_tokenizer_makes_of_its_text(of_real, real_tokenizers, name):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real_tokenizers / name)
    rows, tasks = [], []
    for shard in shards(of_real(name)):
        assert shard.facts.vocab_size == len(tokenizer)
        assert shard.facts.end_of_text == tokenizer.eos_token_id
        names = shard.column("task").to_pylist()
        for i in range(0, len(shard), 2):
            rows.append(shard.tokens(i).astype(int).tolist())
            tasks.append(names[i])
    assert {r[-1] for r in rows} == {tokenizer.eos_token_id}
    texts = tokenizer.batch_decode([r[:-1] for r in rows], clean_up_tokenization_spaces=False)
    again = tokenizer(texts, add_special_tokens=False)["input_ids"]
    wrong = [k for k in range(len(rows)) if again[k] != rows[k][:-1]]
    assert wrong == [], (tasks[wrong[0]], texts[wrong[0]])
    assert set(tasks) == set(TASKS)
    assert max(map(len, rows)) <= 1200


@pytest.mark.parametrize("name", NAMES)
def test_the_response_begins_where_the_shard_says(of_real, real_tokenizers, name):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real_tokenizers / name)
    seen = set()
    for shard in shards(of_real(name))[::2]:
        names = shard.column("task").to_pylist()
        for i in range(0, len(shard), 9):
            at, tokens = shard.prompt_length(i), shard.tokens(i).astype(int).tolist()
            prompt, response = (
                tokenizer.decode(t, clean_up_tokenization_spaces=False)
                for t in (tokens[:at], tokens[at:-1])
            )
            assert prompt == prompt.rstrip()
            assert response.startswith(" ")
            if names[i] in ("cell_type", "tissue"):
                assert "\n" not in response
                assert len(response) < 40
            seen.add(names[i])
    assert len(seen) >= 10


def test_the_vocabulary_decides_the_bytes_of_a_token(of_real):
    widths = {name: shards(of_real(name))[0].tokens(0).dtype for name in NAMES}
    assert widths == {"gpt-neox": np.uint16, "smollm2": np.uint16, "gemma": np.uint32}


# --- wording ----------------------------------------------------------------------------------


def write_pack(folder, tasks):
    """Write a prompt pack of the given tasks with an unmistakable wording."""
    folder.mkdir()
    for task in tasks:
        wording = load_prompts("c2s").wording(task).to_dict()
        prompts = [f"MY OWN WORDS. {wording['prompts'][0]}"]
        lines = [
            f"prompts = {json.dumps(prompts)}",
            f"response = {json.dumps(wording['response'])}",
        ]
        (folder / f"{task}.toml").write_text("\n".join(lines), "utf-8")


def test_a_prompt_pack_of_ones_own_beside_the_recipe(source_folder, write_recipe, build):
    tasks = ("cell_type", "mc_lm", "gene_set_name")
    write_pack(source_folder / "mine", tasks)
    folder = build(
        write_recipe("own", prompts="mine", tasks=dict.fromkeys(tasks), samples_per_cell=0.5)
    )
    for task in tasks:
        shown = show_samples(folder, 5, task=task)
        assert len(shown) == 5
        assert all(s.prompt.startswith("MY OWN WORDS. ") and s.wording == 0 for s in shown)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["recipe"]["prompts"] == "mine"
    assert {t for by_task in manifest["samples"].values() for t in by_task} == set(tasks)


def test_other_words_are_another_corpus(source_folder, write_recipe, build, tmp_path):
    """A pack that changes under the same name is noticed."""
    write_pack(source_folder / "changing", ["cell_type"])
    recipe = write_recipe(
        "changing", prompts="changing", tasks={"cell_type": None}, sources=[{"data": "c.h5ad"}], split={},
        abstracts=None, samples_per_cell=0.3,
    )  # fmt: skip
    build(recipe, tmp_path / "c")
    path = source_folder / "changing" / "cell_type.toml"
    path.write_text(path.read_text().replace("MY OWN", "MY NEW"))
    load_prompts.cache_clear()  # as in a new process
    build(recipe, tmp_path / "c")
    assert all(s.prompt.startswith("MY NEW WORDS") for s in show_samples(tmp_path / "c", 5))


def test_a_pack_that_cannot_work_is_refused_before_anything_is_read(
    source_folder, write_recipe, build, tmp_path
):
    write_pack(source_folder / "lacking", ["cell_type"])
    recipe = write_recipe("lacking", prompts="lacking", tasks={"tissue": None})
    with pytest.raises(UsageError, match="lacking.* no wording for 'tissue'; they have: cell_type"):
        build(recipe, tmp_path / "c")
    toml = source_folder / "lacking" / "tissue.toml"
    toml.write_text('prompts = ["{cells} from {tissue}:"]\nresponse = "{tissue}"')
    load_prompts.cache_clear()
    with pytest.raises(
        InputError, match="must not name {tissue} in task 'tissue': it is the answer"
    ):
        build(recipe, tmp_path / "c")


UPSTREAM = ("cell_type", "cond_cell", "tissue", "cond_sample_tissue", "nl_interpretation")


def test_the_wording_of_released_models(write_recipe, build):
    if find_spec("cell2sentence") is None:
        pytest.skip("the extra `upstream` is not installed")
    folder = build(write_recipe("upstream", prompts="upstream", tasks=dict.fromkeys(UPSTREAM)))
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    seen = set()
    for shard in shards(folder):
        seen |= set(shard.column("task").to_pylist())
        for i in range(0, len(shard), 5):
            tokens = shard.tokens(i).astype(int).tolist()
            text = tokenizer.decode(tokens[:-1], clean_up_tokenization_spaces=False)
            assert tokenizer(text, add_special_tokens=False)["input_ids"] == tokens[:-1]
    assert seen == set(UPSTREAM)


def test_without_the_package_the_extra_is_named(write_recipe, build, tmp_path):
    if find_spec("cell2sentence") is not None:
        pytest.skip("the extra `upstream` is installed")
    with pytest.raises(
        UsageError, match=r"cell2sentence is not installed.*c2s-toolkit\[upstream\]"
    ):
        build(write_recipe("no", prompts="upstream", tasks={"cell_type": None}), tmp_path / "c")
    assert not os.path.exists(tmp_path / "c" / "manifest.json")
