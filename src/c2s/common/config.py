"""The base of every configuration that a person writes: unknown fields are errors, said in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from c2s.common.errors import InputError, UsageError, nearest


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of fields with values.

    Raises
    ------
    InputError
        The file is missing, not YAML, or holds something else.
    """
    try:
        content = yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: a recipe is a list of fields with values, such as 'seed: 0'")
    return content


class Config(BaseModel):
    """A frozen pydantic model that refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a YAML recipe.

        Raises
        ------
        InputError
            The file is missing or not YAML.
        UsageError
            A field is unknown or has a value that cannot work; the message names it.
        """
        return cls.parse(read_yaml(path), str(path))

    @classmethod
    def parse(cls, content: dict[str, Any], source: str) -> Self:
        """Make the model from a dictionary; `source` names where it came from in errors."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise UsageError(f"{source}: {explain(error, cls)}") from error

    def is_what_stands_in(self, content: Any) -> bool:
        """Return whether a dump of a configuration says the same as this one.

        One that an earlier version wrote lacks the fields that are new since then: these have their defaults.
        """
        try:
            there = type(self).model_validate(content)
        except ValidationError:
            return False
        return there.model_dump(mode="json") == self.model_dump(mode="json")

    @classmethod
    def field_names(cls) -> list[str]:
        """Return the names of the fields."""
        return list(cls.model_fields)


#: What pydantic says about kinds of values, in the words of YAML.
_PLAINER = {
    "tuple_type": "A list of values is expected, such as [1, 2]",
    "list_type": "A list of values is expected, such as '- value'",
    "too_short": "At least one is expected",
    "dict_type": "Names with values are expected, such as 'name: value', or 'name: {}'",
    "model_type": "Names with values are expected, such as 'name: value', or '{}'",
}


def _fields_at(model: type[Config], place: Sequence[int | str]) -> list[str]:
    """Return the fields of a nested table; none where it is not one of ours."""
    for name in place:
        field = model.model_fields.get(str(name))
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        nested = [k for k in kinds if isinstance(k, type) and issubclass(k, Config)]
        if len(nested) != 1:
            return []
        model = nested[0]
    return model.field_names()


#: Kind of an error whose message is a line that `explain` made for a part of the recipe.
EXPLAINED = "explained"


def explain(error: ValidationError, model: type[Config]) -> str:
    """Return the first problem of a validation as one line."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, first["loc"][:-1])
        close = nearest(str(first["loc"][-1]), known)
        return f"unknown field {field!r}" + (f"; did you mean {close[0]!r}?" if close else "")
    if first["type"] == "missing":
        return f"the field {field!r} is missing"
    if first["type"] == EXPLAINED:
        return f"{field}: {first['msg']}"
    message = _PLAINER.get(first["type"], first["msg"].removeprefix("Value error, "))
    if not first["loc"]:
        return message  # of several fields together: it names them, and the whole recipe is too long to quote
    if isinstance(first["input"], dict) and first["input"]:  # a whole table is too long to quote
        return f"{field}: {message[0].lower()}{message[1:]}"
    return f"{field} = {first['input']!r}: {message[0].lower()}{message[1:]}"
