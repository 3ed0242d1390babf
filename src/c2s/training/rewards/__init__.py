"""Biological rewards for training with rewards (GRPO, SPEC §7): plain functions on arrays, bound to data by a recipe.

No trainer inside. `open_rewards` binds what a recipe names; a reward takes the answers of whole groups (`Rollouts`) and
gives one number an answer. `watch` measures what was not rewarded.
"""

from c2s.training.rewards.base import OpenedReward, RealCells, Reward, Rollouts, combined
from c2s.training.rewards.opening import open_rewards, open_space
from c2s.training.rewards.recipes import RewardRecipe
from c2s.training.rewards.registry import REWARDS, AnyReward, read_reward
from c2s.training.rewards.space import CellSpace
from c2s.training.rewards.watch import watch

__all__ = [
    "REWARDS",
    "AnyReward",
    "CellSpace",
    "OpenedReward",
    "RealCells",
    "Reward",
    "RewardRecipe",
    "Rollouts",
    "combined",
    "open_rewards",
    "open_space",
    "read_reward",
    "watch",
]
