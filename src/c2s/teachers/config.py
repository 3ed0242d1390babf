"""Which teacher is asked, and how hard: the `teacher:` part of a corpus recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NoReturn, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from c2s.common.config import Config

#: Name of the folder of answers beside the recipe, where the recipe names none.
CACHE_NAME = "teacher-cache"

_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


class TeacherConfig(Config):
    """An OpenAI-compatible endpoint, its limits and its prices (SPEC §11 used GPT-3.5-Turbo-1106)."""

    base_url: str = Field(
        description="Address of the endpoint, to which '/chat/completions' is added, such as "
        "'http://127.0.0.1:8000/v1'."
    )
    model: str = Field(min_length=1, description="Name of the model, as the endpoint knows it.")
    api_key_env: str | None = Field(
        None,
        description="Name of the environment variable that holds the key, in capitals; never the key itself. Without "
        "it no key is sent.",
    )
    temperature: float | None = Field(
        1.0, ge=0, le=2, description="Sampling temperature; null leaves it to the endpoint."
    )
    top_p: float | None = Field(
        None, gt=0, le=1, description="Nucleus of the sampling; null leaves it to the endpoint."
    )
    max_tokens: int = Field(
        1024, ge=1, description="Longest answer in tokens; an answer that is cut there is not used."
    )
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens",
        description="What the endpoint calls that limit; newer models of OpenAI take 'max_completion_tokens' only.",
    )
    seed: int | None = Field(
        0,
        ge=0,
        description="Seed of the sampling, from which each request gets its own; null sends none, for endpoints "
        "that refuse the field.",
    )
    requests_per_minute: float | None = Field(
        60, gt=0, description="Most requests started in a minute, retries included; null: no limit."
    )
    tokens_per_minute: int | None = Field(
        None,
        ge=1,
        description="Most tokens asked for in a minute (the prompt, estimated, and the longest answer); null: no "
        "limit.",
    )
    max_retries: int = Field(
        5,
        ge=0,
        description="How often a request is sent again after a timeout, a lost connection, 429 or 5xx.",
    )
    timeout_s: float = Field(120, gt=0, description="Seconds to wait for an answer.")
    concurrency: int = Field(4, ge=1, le=256, description="Most requests under way at a time.")
    price_per_million_input: float | None = Field(
        None, ge=0, description="Price of a million tokens of prompts, for the cost estimate."
    )
    price_per_million_output: float | None = Field(
        None, ge=0, description="Price of a million tokens of answers, for the cost estimate."
    )
    cache: Path | None = Field(
        None,
        description="Folder that keeps the answers, relative to the recipe's own; default: 'teacher-cache' beside "
        "the recipe.",
    )

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:
            usable = False
        if not usable:
            raise ValueError(
                "not an address of an endpoint; give one such as 'http://127.0.0.1:8000/v1'"
            )
        if parts.username is not None or parts.password is not None or parts.query:
            _refuse_secret("holds a user name, a password or a query; give the key in api_key_env")
        return value.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _name_of_variable(cls, value: str | None) -> str | None:
        if value is not None and not _VARIABLE.fullmatch(value):
            _refuse_secret(
                "not the name of an environment variable in capitals, such as OPENAI_API_KEY; the key itself "
                "must not stand in a recipe"
            )
        return value

    @model_validator(mode="after")
    def _both_prices(self) -> Self:
        for name in ("price_per_million_input", "price_per_million_output"):
            prices = (self.price_per_million_input, self.price_per_million_output)
            if getattr(self, name) is None and prices != (None, None):
                _refuse("give both prices, of input and of output, or neither", (name,), None)
        return self

    def cache_folder(self, recipe_folder: str | Path) -> Path:
        """Return the folder of answers of a recipe that lies in `recipe_folder`."""
        return Path(recipe_folder) / (self.cache or CACHE_NAME)

    def sampling(self) -> dict[str, float | int | None]:
        """Return what, besides model, messages and sample number, decides what an answer looks like."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }


def _refuse_secret(message: str) -> NoReturn:
    """Refuse a value that may be a secret: the error must not show it, as pydantic's own would."""
    _refuse(message, (), "…")


def _refuse(message: str, field: tuple[str, ...], shown: object) -> NoReturn:
    problem = PydanticCustomError("teacher", "{message}", {"message": message})
    raise ValidationError.from_exception_data(
        "TeacherConfig", [InitErrorDetails(type=problem, loc=field, input=shown)]
    )
