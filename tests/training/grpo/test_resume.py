"""Alignment on several processes, stopped and gone on with, is that of one process that nobody stopped."""

import json
from functools import cache

import pytest
import torch
import yaml
from safetensors.torch import load_file

from c2s.training.loop import COMPLETE, complete_checkpoints

pytestmark = pytest.mark.slow

#: Runs by name: what differs from the first.
RUNS = {
    "plain": {},
    "twice": {
        "policy": {"iterations": 2, "answers_per_pass": 2, "beta_allowed": 0.5},
        "rewards": ["energy_distance", "diversity"],
    },
    "adapter": {"lora": {"rank": 4}, "policy": {"iterations": 2, "beta_allowed": 0.5}},
    "split": {"optimisation": {"batch_size": 1}, "policy": {"group": 6}},
}  # fmt: skip

#: What depends on the clock, on how far a process has come, or is a mean over what it has done itself.
CLOCK = {"seconds", "seconds_left", "tokens", "tokens_per_second", "step_time"}


@pytest.fixture(scope="module")
def runs(recipe, tmp_path_factory):
    """A folder with the recipe of every run."""
    folder = tmp_path_factory.mktemp("aligned")
    for name, changes in RUNS.items():
        settings = {"steps": 6, **changes.get("optimisation", {})}
        made = recipe(
            **{**changes, "optimisation": settings}, save_every=2, evaluation={"every": 3}
        )
        content = yaml.safe_dump(made.model_dump(mode="json", exclude_none=True))
        (folder / f"{name}.yaml").write_text(content)
    return folder


@pytest.fixture(scope="module")
def command(runs, start, environment):
    """Return a function that starts a run in a folder, on one process or on two."""

    def begin(name, out, *options, world=1):
        told = environment("ddp-cpu-2") if world > 1 else {}
        return start(
            "train", runs / f"{name}.yaml", "-o", out, "--device", "cpu", *options, world=world, **told
        )  # fmt: skip

    return begin


@pytest.fixture(scope="module")
def whole(runs, command):
    """Return a function that gives the folder of a run that one process made without a stop."""

    @cache
    def make(name):
        out = runs / f"whole-{name}"
        command(name, out).finish()
        return out

    return make


def lines(out):
    """What a run logged, without what depends on the clock."""
    found = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in CLOCK and not k.startswith("time/")}
        for line in found
        if "train_runtime" not in line
    ]


def assert_same(found, expected, tolerance=0.0):
    """All that was logged is the same, each line once, and so are the weights."""
    a, b = lines(found), lines(expected)
    assert [(x["step"], x.keys()) for x in a] == [(x["step"], x.keys()) for x in b]
    for x, y in zip(a, b, strict=True):
        for key, value in y.items():
            if value is not None:
                assert x[key] == pytest.approx(value, rel=tolerance, abs=tolerance), (y["step"], key)  # fmt: skip
    a, b = (load_file(out / "model" / "model.safetensors") for out in (found, expected))
    assert a.keys() == b.keys()
    for name, weight in b.items():
        mine = a[name]
        if tolerance and name.endswith("query_key_value.bias"):
            # A softmax does not see the keys' bias: its gradient is rounding, which Adam scales to the learning rate.
            mine, weight = (w.view(4, 3, -1)[:, [0, 2]] for w in (mine, weight))
        torch.testing.assert_close(mine, weight, atol=tolerance, rtol=0, msg=name)
    a, b = (json.loads((out / "run.json").read_text()) for out in (found, expected))
    for name in ("tokens", "steps", "before", "after"):
        assert a[name] == pytest.approx(b[name], rel=tolerance), name


def logged(out, step):
    """Return whether a step is in the log of a run."""
    return lambda: (out / "log.jsonl").is_file() and any(x["step"] >= step for x in lines(out))


def saved(out, step):
    """Return whether a checkpoint was written to its end."""
    return lambda: (out / "checkpoints" / f"checkpoint-{step}" / COMPLETE).is_file()


def test_the_log_has_every_step_and_every_measurement_once(whole):
    found = lines(whole("plain"))
    assert [x["step"] for x in found if "loss" in x] == list(range(1, 7))
    assert [x["step"] for x in found if "eval_scfid" in x] == [0, 3, 6]
    assert found[1]["kl"] == 0
    assert found[-2]["kl"] > 0
    facts = json.loads((whole("plain") / "run.json").read_text())
    assert facts["before"]["scfid"] == found[0]["eval_scfid"]
    assert facts["after"]["scfid"] == found[-1]["eval_scfid"]
    assert facts["tokens"] == 6 * 8 * 16
    kept = complete_checkpoints(whole("plain") / "checkpoints")
    assert [p.name for p in kept] == ["checkpoint-4", "checkpoint-6"]


def test_kill_9_at_any_moment(runs, command, whole):
    """The same to the last bit: before the first checkpoint, between two, behind one, and behind the last step."""
    out = runs / "killed"
    command("plain", out).kill_when(logged(out, 1))
    command("plain", out, "--resume").kill_when(logged(out, 3))
    command("plain", out, "--resume").kill_when(saved(out, 4))
    command("plain", out, "--resume").kill_when(saved(out, 6))
    command("plain", out, "--resume").finish()
    assert_same(out, whole("plain"))


@pytest.mark.parametrize("name", ["twice", "adapter"])
def test_answers_that_are_learned_from_twice_and_adapters(name, runs, command, whole):
    out = runs / f"killed-{name}"
    command(name, out).kill_when(logged(out, 5))
    command(name, out, "--resume").finish()
    assert_same(out, whole(name))


@pytest.mark.parametrize("name", ["twice", "adapter"])
def test_two_processes_are_as_one(name, runs, command, whole):
    """The same answers, rewards, losses and weights."""
    out = runs / f"two-{name}"
    assert command(name, out, world=2).finish()[1] == ""  # the first speaks alone
    assert_same(out, whole(name), 1e-5)
    assert json.loads((out / "run.json").read_text())["processes"] == 2


def test_a_run_changes_between_one_process_and_two(runs, command, whole):
    """Its only group lies on both."""
    out = runs / "changing"
    command("split", out, world=2).kill_when(saved(out, 2))
    command("split", out, "--resume").kill_when(saved(out, 4))
    command("split", out, "--resume", world=2).finish()
    assert_same(out, whole("split"), 1e-5)
