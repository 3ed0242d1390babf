"""`TeacherConfig`: what cannot work is refused, and a key is never shown."""

import subprocess
import sys
from pathlib import Path

import pytest

from c2s.common.config import Config
from c2s.common.errors import UsageError
from c2s.teachers.config import TeacherConfig

GOOD = {"base_url": "http://127.0.0.1:8000/v1", "model": "m"}


class Recipe(Config):
    """Stands for the corpus recipe, which holds the configuration as a field."""

    teacher: TeacherConfig


def test_every_field_is_described():
    assert all(field.description for field in TeacherConfig.model_fields.values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_url": "localhost:8000"}, "teacher.base_url = 'localhost:8000': not an address"),
        ({"base_url": "http://[::1/v1"}, "teacher.base_url = 'http://[::1/v1': not an address"),
        ({"model": ""}, "teacher.model = '': string should have"),
        ({"temperature": -1}, "teacher.temperature = -1: "),
        ({"requests_per_minute": 0}, "teacher.requests_per_minute = 0: "),
        (
            {"price_per_million_input": 1},
            "teacher.price_per_million_output = None: give both prices",
        ),
        (
            {"price_per_million_output": 1},
            "teacher.price_per_million_input = None: give both prices",
        ),
        ({"modle": "x"}, "unknown field 'teacher.modle'"),
    ],
)
def test_what_cannot_work_is_refused_by_name(changes, said):
    with pytest.raises(UsageError) as caught:
        Recipe.parse({"teacher": {**GOOD, **changes}}, "recipe.yaml")
    assert str(caught.value).startswith(f"recipe.yaml: {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "secret", "value"),
    [
        ("api_key_env", "sk-proj-abc123", "sk-proj-abc123"),
        ("api_key_env", "0f3a77", "0f3a77"),
        ("base_url", "hunter2", "https://me:hunter2@example.org/v1"),
        ("base_url", "hunter2", "https://example.org/v1?key=hunter2"),
    ],
)
def test_a_secret_in_the_recipe_is_refused_and_not_repeated(field, secret, value):
    with pytest.raises(UsageError, match=field) as caught:
        Recipe.parse({"teacher": {**GOOD, field: value}}, "recipe.yaml")
    error = caught.value
    while error is not None:  # with --debug the causes are printed too
        assert secret not in str(error)
        error = error.__cause__


def test_the_cache_lies_beside_the_recipe_unless_named():
    assert TeacherConfig(**GOOD).cache_folder("recipes") == Path("recipes/teacher-cache")
    named = TeacherConfig(**GOOD, cache="answers")
    assert named.cache_folder("recipes") == Path("recipes/answers")
    assert TeacherConfig(**GOOD, cache="/answers").cache_folder("recipes") == Path("/answers")


def test_configuration_and_abstracts_do_not_load_the_sdk():
    code = (
        "import sys, c2s.teachers.config, c2s.teachers.abstracts, c2s.teachers.paraphrase\n"
        "assert not {'openai', 'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
