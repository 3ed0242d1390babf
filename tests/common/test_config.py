"""Recipes that cannot work are refused in one line that names the field."""

import pytest
from pydantic import Field, ValidationError, field_validator

from c2s.common.config import Config
from c2s.common.errors import C2SError, InputError, UsageError


class Mix(Config):
    weight: float = Field(1.0, gt=0)


class Recipe(Config):
    seed: int = 0
    top_k: int = Field(200, ge=1)
    path: str
    tasks: dict[str, Mix] = Field(default_factory=dict)

    @field_validator("path")
    @classmethod
    def _known(cls, value: str) -> str:
        if value == "bad":
            raise ValueError("Must not be bad")
        return value


def test_reads_yaml(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("path: ä.h5ad\nseed: 3\ntasks: {cell_type: {weight: 2}}\n", "utf-8")
    recipe = Recipe.read(file)
    assert recipe == Recipe(path="ä.h5ad", seed=3, tasks={"cell_type": Mix(weight=2)})
    assert Recipe.read(str(file)) == recipe
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 4


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"path": "a", "topk": 3}, "unknown field 'topk'; did you mean 'top_k'?"),
        ({"path": "a", "zzz": 3}, "unknown field 'zzz'"),
        ({}, "the field 'path' is missing"),
        ({"path": "a", "top_k": 0}, "top_k = 0: input should be greater than or equal to 1"),
        ({"path": "a", "seed": "x"}, "seed = 'x': input should be a valid integer"),
        ({"path": "bad"}, "path = 'bad': must not be bad"),
        ({"path": "a", "tasks": {"t": {"weight": 0}}}, "tasks.t.weight = 0: input should be gr"),
        ({"path": "a", "tasks": {"t": {"weigth": 1}}}, "unknown field 'tasks.t.weigth'"),
    ],
)
def test_fields_that_cannot_work_are_named(content, says):
    with pytest.raises(UsageError) as caught:
        Recipe.parse(content, "my.yaml")
    message = str(caught.value)
    assert message.startswith(f"my.yaml: {says}")
    assert "\n" not in message


def test_the_name_of_a_field_is_suggested_only_where_it_belongs():
    with pytest.raises(UsageError, match=r"unknown field 'tasks.t.topk'$"):
        Recipe.parse({"path": "a", "tasks": {"t": {"topk": 1}}}, "my.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a recipe is a list of fields with values"),
        ("- 1\n- 2\n", "a recipe is a list of fields with values"),
        ("just words", "a recipe is a list of fields with values"),
        ("a: [1, 2\nb: }", "not valid YAML"),
        ("\tseed: 1", "not valid YAML"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, text, says):
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        Recipe.read(file)
    assert str(caught.value).startswith(f"{file}: {says}")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read \(No such file"):
        Recipe.read(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        Recipe.read(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("path: ä".encode("latin-1"))
    with pytest.raises(InputError, match="not valid YAML"):
        Recipe.read(tmp_path / "latin.yaml")


def test_keys_that_are_no_names(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("path: a\n1: 2\n")
    with pytest.raises(C2SError) as caught:
        Recipe.read(file)
    assert "\n" not in str(caught.value)


def test_field_names():
    assert Recipe.field_names() == ["seed", "top_k", "path", "tasks"]
