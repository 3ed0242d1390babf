"""Rewards by name, and how a recipe's list of them is read."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError
from pydantic_core import PydanticCustomError

from c2s.common.config import EXPLAINED, explain
from c2s.common.errors import listing, nearest
from c2s.training.rewards.recipes import (
    BertScore,
    Diversity,
    EnergyDistance,
    Function,
    KendallTau,
    Length,
    Match,
    NegativeMSE,
    Repetition,
    RewardRecipe,
    ScFID,
    UnknownGenes,
    Validity,
)

REWARDS: dict[str, type[RewardRecipe]] = {
    "kendall_tau": KendallTau,
    "negative_mse": NegativeMSE,
    "bertscore": BertScore,
    "energy_distance": EnergyDistance,
    "scfid": ScFID,
    "validity": Validity,
    "length": Length,
    "repetition": Repetition,
    "unknown_genes": UnknownGenes,
    "match": Match,
    "diversity": Diversity,
    "function": Function,
}
"""The recipe of every reward, by name."""


def read_reward(content: Any) -> RewardRecipe:
    """Read one reward of a recipe: a name, or a table with `name`, `weight` and the reward's own fields.

    Parameters
    ----------
    content
        As YAML gives it, or a recipe, which is returned as it is.

    Raises
    ------
    PydanticCustomError
        It has no name, an unknown one (the nearest is told), or a field that cannot work; `explain` makes a line of it
        where it is part of a recipe.

    Examples
    --------
    >>> read_reward({"name": "validity", "weight": 0.5}).weight
    0.5
    """
    if isinstance(content, RewardRecipe):
        return content
    if isinstance(content, str):
        content = {"name": content}
    if not isinstance(content, dict) or not isinstance(content.get("name"), str):
        raise _refused("a reward is a name, or a table with 'name' and its fields")
    name = content["name"]
    if name not in REWARDS:
        close = nearest(name, REWARDS, 1)
        raise _refused(
            f"there is no reward {name!r}; there are: {listing(list(REWARDS), 20)}"
            + (f"; did you mean {close[0]!r}?" if close else "")
        )
    try:
        return REWARDS[name].model_validate(content)
    except ValidationError as error:
        raise _refused(f"{name}: {explain(error, REWARDS[name])}") from error


def _refused(line: str) -> PydanticCustomError:
    return PydanticCustomError(EXPLAINED, "{line}", {"line": line})


AnyReward = Annotated[SerializeAsAny[RewardRecipe], BeforeValidator(read_reward)]
"""Any reward as a field of a recipe: ``rewards: list[AnyReward]``."""
