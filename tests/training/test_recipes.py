"""Recipes: those that come with the package, published hyperparameters, and what cannot work, said in one line."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import yaml

from c2s.common.errors import C2SError
from c2s.corpus.recipe import CorpusRecipe
from c2s.training.grpo.recipe import AlignmentRecipe
from c2s.training.recipe import OptimisationRecipe, TrainingRecipe
from c2s.training.run import run_recipe
from c2s.training.shipped import hyperparameters, recipe_names, shipped_recipe

#: SPEC §5, §6 and §7.2: what is published of each row (not what is ours).
PUBLISHED = {
    "captioning": {"learning_rate": 1e-5, "batch_size": 64, "weight_decay": 0.01},
    "scqa": {"learning_rate": 1e-5, "warmup": 100},
    "dong": {"epochs": 3},
    "l1000": {"learning_rate": 1e-4, "batch_size": 64, "steps": 3500},
    "tutorial-cell-type": {
        "learning_rate": 1e-5, "batch_size": 32, "epochs": 5, "schedule": "cosine", "warmup": 0.05,
        "weight_decay": 0.01, "precision": "bfloat16",
    },
    "tutorial-perturbation": {
        "learning_rate": 1e-5, "batch_size": 8, "steps": 500, "schedule": "cosine", "precision": "bfloat16",
    },
    "pretrain-1b": {"optimizer": "adamw"},
    "pretrain-27b": {"optimizer": "adamw"},
    "cell-type": {},
    "cell-generation": {},
    "spatial": {},
    "grpo-scqa": {"learning_rate": 5e-7},
    "grpo-dong": {"epochs": 3},
    "grpo-l1000": {"learning_rate": 1e-6, "steps": 3000},
}  # fmt: skip


class TestShipped:
    @pytest.mark.parametrize("name", sorted({*recipe_names()} - {"align-generation"}))
    def test_every_recipe_can_be_read(self, name):
        recipe = TrainingRecipe.parse(shipped_recipe(name), name)
        assert isinstance(recipe.data.recipe, CorpusRecipe)
        assert [s.data for s in recipe.data.recipe.sources] == ["pancreas"]
        assert len(recipe.data.recipe.tasks) == (12 if name == "pretrain" else 1)

    def test_that_of_alignment_goes_on_from_that_of_generation(self):
        recipe = AlignmentRecipe.parse(shipped_recipe("align-generation"), "align-generation")
        before = TrainingRecipe.parse(shipped_recipe("cell-generation"), "cell-generation")
        assert recipe.data == before.data  # the same cells are held out
        assert recipe.policy.task in before.data.recipe.tasks
        assert [reward.name for reward in recipe.rewards] == ["energy_distance"]

    def test_those_of_the_paper_are_there(self):
        assert recipe_names() == ["align-generation", "cell-generation", "cell-type", "pretrain"]

    @pytest.mark.parametrize("name", hyperparameters())
    def test_presets_are_what_is_published(self, name):
        found = OptimisationRecipe(preset=name)
        published = PUBLISHED[name]
        assert {k: getattr(found, k) for k in published} == published

    def test_values_that_are_not_published_say_so(self):
        from importlib import resources

        text = resources.files("c2s.training").joinpath("recipes/hyperparameters.yaml").read_text()
        name = ""
        for line in text.splitlines():
            if line and line[0] not in " #":
                name = line.partition(":")[0]
            elif line.startswith("  "):
                field = line.strip().partition(":")[0]
                assert ("# ours" in line) == (field not in PUBLISHED[name]), (name, line)

    def test_own_fields_go_before_those_of_a_preset(self):
        found = OptimisationRecipe(preset="l1000", epochs=2, learning_rate=3e-4)
        assert (found.steps, found.epochs, found.learning_rate, found.batch_size) == (
            None,
            2,
            3e-4,
            64,
        )
        # What a run writes down can be read again.
        assert OptimisationRecipe(**found.model_dump()) == found


GOOD = {
    "stage": "sft",
    "base": {"preset": "mini"},
    "data": {"corpus": "corpus"},
    "optimisation": {"steps": 4},
}
INLINE = {"sources": [{"data": "cut.h5ad"}], "tasks": {"cell_type": {}}}

#: What is changed in a recipe that works, and what the line says.
BROKEN = [
    ({"base": {"preset": "pythia"}}, "base: there is no preset 'pythia'; there are: mini"),
    ({"base": {"preset": "mini", "model": "x"}}, "base: give either 'preset'"),
    ({"base": {}}, "base = {}: give either 'preset'"),
    ({"base": {"model": "nowhere"}}, "nowhere: no model directory there"),
    ({"base": {"preset": "mini", "context": 64}}, "data.corpus: its samples have up to 128 tokens"),
    ({"base": {"preset": "mini", "context": 4}}, "base.context = 4"),
    ({"base": {"preset": "mini", "contxt": 64}}, "unknown field 'base.contxt'"),
    ({"data": {"corpus": "elsewhere"}}, "elsewhere: is no corpus"),
    ({"data": {}}, "data = {}: give either 'corpus'"),
    ({"data": {"corpus": "corpus", "recipe": "r.yaml"}}, "data: give either 'corpus'"),
    ({"data": {"recipe": "missing.yaml"}}, "missing.yaml: cannot be read"),
    ({"data": {"recipe": {**INLINE, "tasks": {}}}}, "data.recipe: tasks"),
    ({"data": {"recipe": {**INLINE, "tasks": {"celltype": {}}}}}, "data.recipe: tasks: there is no task 'celltype'; did you mean 'cell_type'"),
    ({"data": {"recipe": {**INLINE, "sources": [{"data": "no.h5ad"}]}}}, "no.h5ad"),
    ({"stage": "grpo"}, "stage = 'grpo'"),
    ({"optimisation": {"steps": 4, "epochs": 1}}, "optimisation: give either 'steps' or 'epochs'"),
    ({"optimisation": {}}, "optimisation = {}: give either 'steps' or 'epochs'"),
    ({"optimisation": {"preset": "l100"}}, "optimisation: there is no preset 'l100'; there are"),
    ({"optimisation": {"steps": 4, "learning_rate": 0}}, "optimisation.learning_rate = 0"),
    ({"optimisation": {"steps": 4, "warmup": 1.5}}, "warmup = 1.5: a share is below 1"),
    ({"optimisation": {"steps": 4, "precision": "float16"}}, "optimisation.precision = 'float16'"),
    ({"optimisation": {"steps": 4, "schedule": "linear", "final_rate": 0.1}}, "optimisation: final_rate = 0.1 goes with schedule: cosine, not with linear"),
    ({"optimisation": {"steps": 4, "betas": [0.9, 1.0]}}, "optimisation.betas.1 = 1.0: input should be less than 1"),
    ({"data": {"corpus": "corpus", "workers": 2}}, "data.workers = 2"),
    ({"data": {"corpus": "corpus", "inverse": "gone.h5ad"}}, "data.inverse: gone.h5ad: nothing in"),
    ({"trackers": ["tensorbord"]}, "trackers.0 = 'tensorbord'"),
    ({"trackers": ["wandb"]}, "trackers: wandb is not installed"),
    ({"evaluation": {"patience": 2}}, "'patience' needs 'best'"),
    ({"evaluation": {"best": "accuracy"}}, "evaluation.best = 'accuracy': it is 'loss', or"),
    ({"evaluation": {"best": "accuracy_cond_cell"}}, "evaluation.best = 'accuracy_cond_cell'"),
    ({"evaluation": {"best": "accuracy_tissue"}}, "evaluation.best = accuracy_tissue: the data have no validation samples of the task 'tissue'; there are: cell_type"),
    ({"evaluation": {"best": "loss", "every": 7}}, "save_every"),
    ({"evaluation": {"best": "loss"}, "data": {"corpus": "corpus", "validation": 0}}, "evaluation.best needs validation samples; data.validation is 0"),
    ({"push_to_hub": "justaname"}, "push_to_hub = 'justaname'"),
    ({"push_to_hub": "owner/name"}, "push_to_hub = owner/name: there is no token"),
]  # fmt: skip


@pytest.fixture
def no_training(monkeypatch):
    """Fail where anything would be trained, or weights made."""
    import huggingface_hub

    from c2s.training import checks, run

    def refuse(*_, **__):
        pytest.fail("weights were made")

    monkeypatch.setattr(run, "open_base", refuse)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    real = checks.find_spec
    monkeypatch.setattr(checks, "find_spec", lambda n: None if n == "wandb" else real(n))


@pytest.mark.parametrize(
    ("change", "line"), BROKEN, ids=[line.partition(";")[0][:50] for _, line in BROKEN]
)
def test_what_cannot_work_is_said_in_one_line_before_anything_is_trained(
    change, line, small_corpus, tmp_path, no_training
):
    content = {**copy.deepcopy(GOOD), **change}
    with pytest.raises(C2SError) as error:
        run_recipe(TrainingRecipe.parse(content, "r.yaml"), small_corpus, tmp_path / "out")
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_batch_that_processes_cannot_share(small_corpus, tmp_path, no_training, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    recipe = TrainingRecipe.parse(GOOD, "r.yaml")
    with pytest.raises(
        C2SError, match=r"optimisation\.batch_size = 32 cannot be shared out evenly to 3"
    ):
        run_recipe(recipe, small_corpus, tmp_path / "out")


@pytest.mark.parametrize(
    ("device", "line"), [(None, "there are 2 GPUs, and each needs a process"), ("cuda:1", "device='cuda:1'")]
)  # fmt: skip
def test_devices_that_one_process_cannot_train_on(
    device, line, small_corpus, tmp_path, no_training, monkeypatch
):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    recipe = TrainingRecipe.parse(GOOD, "r.yaml")
    with pytest.raises(C2SError, match=line) as error:
        run_recipe(recipe, small_corpus, tmp_path / "out", device=device)
    assert "CUDA_VISIBLE_DEVICES=" in str(error.value)


def test_a_recipe_of_an_earlier_version_is_the_same():
    recipe = TrainingRecipe.parse(GOOD, "r.yaml")
    written = recipe.model_dump(mode="json")
    assert recipe.is_what_stands_in(written)
    del written["push_to_hub"], written["base"]["quantize"], written["optimisation"]["clip"]
    assert recipe.is_what_stands_in(written)
    assert not recipe.is_what_stands_in({**written, "seed": 1})
    assert not recipe.is_what_stands_in({**written, "unknown": 1})
    assert not recipe.is_what_stands_in(None)
    # A value that is not the default, of a field that the recipe leaves out now.
    written["optimisation"]["clip"] = 2.0
    assert not recipe.is_what_stands_in(written)


def test_the_recipe_that_they_were_made_from_works(small_corpus, tmp_path):
    from c2s.training.plan import plan

    recipe = TrainingRecipe.parse(yaml.safe_load(yaml.safe_dump(GOOD)), "r.yaml")
    facts = plan(recipe, small_corpus, device="cpu")
    assert not (tmp_path / "out").exists()
    assert facts["steps"] == 4
    assert facts["samples"] == {"cell_type": facts["cells"]["train"]}
    assert facts["parameters"] == facts["trainable_parameters"] > 400_000
    memory = facts["memory"]
    assert memory["chosen"] == "no_checkpointing"
    assert memory["no_checkpointing"]["weights"] == pytest.approx(4 * facts["parameters"], rel=1e-3)
    assert (
        memory["gradient_checkpointing"]["activations"] < memory["no_checkpointing"]["activations"]
    )
    assert np.isfinite(facts["tokens_per_second_at_most"])


@pytest.mark.parametrize("module", ["c2s.training.recipe", "c2s.training.grpo.recipe"])
def test_recipes_are_read_without_heavy_libraries(module):
    """So that a typo is answered at once."""
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
