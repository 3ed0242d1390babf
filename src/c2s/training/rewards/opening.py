"""Rewards of a recipe, bound to real cells, a space and a vocabulary."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from c2s.cells.inverse import RankExpressionModel
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError, listing
from c2s.common.seeds import generator
from c2s.encoders.base import CellEncoder
from c2s.encoders.opening import ENCODERS, open_encoder
from c2s.metrics import bertscore
from c2s.training.rewards import form
from c2s.training.rewards.base import OpenedReward, RealCells, Reward, Rollouts
from c2s.training.rewards.pairs import negative_mse, random_pairs
from c2s.training.rewards.programme import programme_columns, programme_tau, rank_scores
from c2s.training.rewards.recipes import (
    BertScore,
    Diversity,
    EnergyDistance,
    Function,
    GroupRecipe,
    KendallTau,
    NegativeMSE,
    RewardRecipe,
    SpaceRecipe,
)
from c2s.training.rewards.shares import (
    FEWEST_CELLS,
    Gaussian,
    diversity_shares,
    energy_shares,
    mean_distance,
    scfid_shares,
)
from c2s.training.rewards.space import CellSpace, placed, shared_genes

#: Space of rewards unless another is named: more components overfit a thousand cells.
DEFAULT_ENCODER = "pca:20"

#: Fewer real cells of a condition say nothing of its spread.
_FEWEST_REAL = 2

_FORMS: dict[str, Reward] = {
    "validity": form.validity,
    "length": form.length,
    "repetition": form.repetition,
    "unknown_genes": form.unknown_genes,
    "match": form.match,
}


def open_space(
    encoder: CellEncoder | str | None,
    real: RealCells,
    inverse: RankExpressionModel,
    *,
    seed: int = 0,
    device: str | None = None,
    folder: Path = Path(),
) -> CellSpace:
    """Return the space that an encoder gives.

    Parameters
    ----------
    encoder
        An encoder, or its name as `c2s.encoders.opening.open_encoder` takes it; by default 20 principal components. It
        is fitted, where that is needed, on the expression of `real`.
    real
        Training cells.
    inverse
        From rank to expression, the one that the expression of `real` came through.
    seed, device
        As `open_encoder` takes them.
    folder
        Where a relative path in a name begins.

    Raises
    ------
    UsageError, InputError
        As `open_encoder`.
    """
    if encoder is None or isinstance(encoder, str):
        vocabulary = real.cells.vocabulary
        encoder = open_encoder(
            _beside(encoder or DEFAULT_ENCODER, folder),
            training=(real.expression, vocabulary),
            seed=seed,
            device=device,
        )
    return CellSpace(encoder, inverse)


def _beside(spec: str, folder: Path) -> str:
    """Return the name of an encoder with its path, where it has one in `folder`, made absolute to it."""
    kind, colon, where = spec.partition(":")
    if kind in ENCODERS and where and not where.isdigit() and (folder / where).exists():
        return f"{kind}{colon}{folder / where}"
    return spec


def open_rewards(
    recipes: Sequence[RewardRecipe],
    real: RealCells | None,
    inverse: RankExpressionModel | None,
    vocabulary: GeneVocabulary,
    encoder: CellSpace | CellEncoder | str | None = None,
    seed: int = 0,
    *,
    device: str | None = None,
    folder: Path = Path(),
) -> list[OpenedReward]:
    """Bind rewards to their data, so that what is wrong is said before the first step.

    Parameters
    ----------
    recipes
        As `read_reward` gives them.
    real, inverse
        Real cells to compare with, and the line from rank to expression; None where no reward compares.
    vocabulary
        Of the model.
    encoder
        The space of rewards that name none: as `open_space` gives it, or what that takes. Give a `CellSpace` to share
        places of cells with `watch`.
    seed
        Of what is fitted.
    device
        Where networks run.
    folder
        Where relative paths of the recipes begin.

    Returns
    -------
    list of OpenedReward
        In the order of `recipes`.

    Raises
    ------
    UsageError
        A reward compares with real cells and there are none, or they are in another vocabulary.
    InputError
        A programme, an encoder or a folder cannot be used.
    """
    spaces: dict[str | None, CellSpace] = {}
    if isinstance(encoder, CellSpace):
        spaces[None], encoder = encoder, None
    opening = _Opening(real, inverse, vocabulary, encoder, seed, device, folder, spaces)
    opened: list[OpenedReward] = []
    for i, recipe in enumerate(recipes):
        function = opening.function(recipe, f"rewards.{i} ({recipe.name})")
        before = sum(earlier.name == recipe.name for earlier in recipes[:i])
        name = f"{recipe.name}_{before + 1}" if before else recipe.name
        opened.append(OpenedReward(name, recipe.weight, function))
    return opened


@dataclass(frozen=True)
class _Opening:
    """What all rewards of a recipe are bound to; spaces are opened once."""

    real: RealCells | None
    inverse: RankExpressionModel | None
    vocabulary: GeneVocabulary
    encoder: CellEncoder | str | None
    seed: int
    device: str | None
    folder: Path
    spaces: dict[str | None, CellSpace]

    def function(self, recipe: RewardRecipe, where: str) -> Reward:
        """Return the function of one reward; `where` names it in errors."""
        if isinstance(recipe, BertScore):
            return _bertscore(recipe, self.device, self.folder)
        if isinstance(recipe, Function):
            return _function(recipe, where, self.folder)
        if recipe.name in _FORMS:
            return _FORMS[recipe.name]
        if isinstance(recipe, Diversity) and recipe.distance == "sentences":
            return sentence_diversity
        real = self._real(where)
        if isinstance(recipe, KendallTau):
            if recipe.truth == "expression" and self.inverse is None:
                raise UsageError(
                    f"{where}: needs the model's line from rank to expression, and there is none; give truth: rank"
                )
            columns = programme_columns(recipe, self.vocabulary, where, self.folder)
            assert columns is not None  # the recipe refuses to be without a programme
            return _kendall_tau(columns, real, recipe.truth)
        assert isinstance(recipe, SpaceRecipe)
        columns = programme_columns(recipe, self.vocabulary, where, self.folder)
        space = self._space(recipe.encoder, real, where)
        space.real_places(real, columns)  # what an encoder refuses is said now
        return _in_space(recipe, space, real, columns)

    def _real(self, where: str) -> RealCells:
        if self.real is None:
            raise UsageError(f"{where}: compares with real cells, and there are none")
        if self.real.cells.vocabulary != self.vocabulary:
            raise UsageError(
                f"{where}: the real cells are ranked among {len(self.real.cells.vocabulary):,} genes, expected the "
                f"{len(self.vocabulary):,} of the model"
            )
        return self.real

    def _space(self, named: str | None, real: RealCells, where: str) -> CellSpace:
        """Return the space of a reward: that which it names, or that of the run."""
        if named not in self.spaces:
            if self.inverse is None:
                raise UsageError(
                    f"{where}: needs the line from rank to expression, and there is none"
                )
            try:
                self.spaces[named] = open_space(
                    self.encoder if named is None else named, real, self.inverse, seed=self.seed,
                    device=self.device, folder=self.folder,
                )  # fmt: skip
            except (InputError, UsageError) as error:
                place = where if named is None else f"{where}.encoder = {named}"
                raise type(error)(f"{place}: {error}") from error
        return self.spaces[named]


def _nothing(rollouts: Rollouts) -> np.ndarray:
    """Return NaN for every answer: the reward says nothing."""
    return np.full(len(rollouts), np.nan)


# --- rewards of single answers -------------------------------------------------------------------


def _kendall_tau(columns: np.ndarray, real: RealCells, truth: str) -> Reward:
    def reward(rollouts: Rollouts) -> np.ndarray:
        if rollouts.cells is None:
            return _nothing(rollouts)
        known = rollouts.truth >= 0
        rows = rollouts.truth[known]
        values = np.full((len(rollouts), len(columns)), np.nan)
        if truth == "rank":
            values[known] = rank_scores(real.cells.take(rows), columns)
        else:
            values[known] = real.expression[rows][:, columns].toarray()
        return programme_tau(rank_scores(rollouts.cells, columns), values)

    return reward


def _bertscore(recipe: BertScore, device: str | None, folder: Path) -> Reward:
    from c2s.encoders.text import TransformerTextEncoder

    encoder = TransformerTextEncoder(
        folder / recipe.folder, num_layers=recipe.layer, device=device or "cpu"
    )

    def reward(rollouts: Rollouts) -> np.ndarray:
        result = _nothing(rollouts)
        if rollouts.references is None:
            return result
        known = np.flatnonzero([bool(text.strip()) for text in rollouts.references])
        answers = [rollouts.texts[i] for i in known]
        result[known] = bertscore(answers, [rollouts.references[i] for i in known], encoder)
        return result

    return reward


def _function(recipe: Function, where: str, folder: Path) -> Reward:
    """Return a function of a Python file as a reward.

    Raises
    ------
    InputError
        The file cannot be run, or has no such function.
    """
    path = folder / recipe.file
    try:
        names = runpy.run_path(str(path))
    except OSError as error:
        raise InputError(f"{where}.file: {path}: cannot be read ({error.strerror})") from error
    except Exception as error:
        raise InputError(
            f"{where}.file: {path}: cannot be run ({type(error).__name__}: {error})"
        ) from error
    function = names.get(recipe.function)
    if not callable(function):
        own = [name for name, value in names.items() if callable(value) and name[0] != "_"]
        raise InputError(
            f"{where}.function: {path} has no function {recipe.function!r}; there are: {listing(own) or 'none'}"
        )

    def reward(rollouts: Rollouts) -> np.ndarray:
        values = np.asarray(function(rollouts), np.float64)
        if values.shape != (len(rollouts),):
            raise InputError(
                f"{where}: {recipe.function} gave an array of shape {values.shape}, expected a number an answer, "
                f"({len(rollouts)},)"
            )
        return values

    return reward


# --- rewards in a space --------------------------------------------------------------------------


def _in_space(
    recipe: SpaceRecipe, space: CellSpace, real: RealCells, columns: np.ndarray | None
) -> Reward:
    """Return the function of a reward that compares places."""
    if isinstance(recipe, NegativeMSE):
        return _paired(space, real, columns)
    if isinstance(recipe, Diversity):
        return lambda rollouts: _spread(space.places(rollouts, columns), rollouts)
    assert isinstance(recipe, GroupRecipe)
    share = _energy if isinstance(recipe, EnergyDistance) else _scfid
    return _of_groups(share(space, real, columns), space, real, columns, recipe.real_cells)


def _paired(space: CellSpace, real: RealCells, columns: np.ndarray | None) -> Reward:
    def reward(rollouts: Rollouts) -> np.ndarray:
        places = space.real_places(real, columns)
        pairs = random_pairs(rollouts, real, placed(places))
        value = negative_mse(space.places(rollouts, columns), places[pairs])
        value[pairs < 0] = np.nan
        return lowest_for_the_rest(value, rollouts)

    return reward


#: From places of a group, the condition, and which real cells (None: all that have a place) to a number a cell.
_Share = Callable[[np.ndarray, int, np.ndarray | None], np.ndarray]


def _energy(space: CellSpace, real: RealCells, columns: np.ndarray | None) -> _Share:
    within: dict[int, float] = {}

    def share(points: np.ndarray, code: int, drawn: np.ndarray | None) -> np.ndarray:
        places = space.real_places(real, columns)
        if drawn is not None:
            return energy_shares(points, places[drawn])
        others = places[_rows(space, real, columns, code)]
        if code not in within:
            within[code] = mean_distance(others)
        return energy_shares(points, others, within[code])

    return share


def _scfid(space: CellSpace, real: RealCells, columns: np.ndarray | None) -> _Share:
    fits: dict[int, Gaussian] = {}

    def share(points: np.ndarray, code: int, drawn: np.ndarray | None) -> np.ndarray:
        places = space.real_places(real, columns)
        if drawn is not None:
            return scfid_shares(points, Gaussian.fit(places[drawn]))
        if code not in fits:
            fits[code] = Gaussian.fit(places[_rows(space, real, columns, code)])
        return scfid_shares(points, fits[code])

    return share


def _rows(space: CellSpace, real: RealCells, columns: np.ndarray | None, code: int) -> np.ndarray:
    """Return the real cells of a condition that have a place."""

    def compute() -> np.ndarray:
        rows = real.rows(code)
        return rows[placed(space.real_places(real, columns)[rows])]

    genes = None if columns is None else columns.tobytes()
    return real.once(("placed", space, genes, code), compute)


def _of_groups(
    share: _Share,
    space: CellSpace,
    real: RealCells,
    columns: np.ndarray | None,
    real_cells: int | None,
) -> Reward:
    """Return the reward that gives every group its shares."""

    def reward(rollouts: Rollouts) -> np.ndarray:
        points = space.places(rollouts, columns)
        there = placed(points)
        result = _nothing(rollouts)
        for rows, code in rollouts.groups():
            others = _rows(space, real, columns, code)
            judged = rows[there[rows]]
            if len(others) < _FEWEST_REAL or len(judged) < FEWEST_CELLS:
                continue
            drawn = None
            if real_cells is not None and real_cells < len(others):
                rng = generator(rollouts.seed, "real cells", int(rollouts.group[rows[0]]))
                drawn = np.sort(rng.choice(others, size=real_cells, replace=False))
            result[judged] = share(points[judged], code, drawn)
        return lowest_for_the_rest(result, rollouts)

    return reward


def _spread(points: np.ndarray, rollouts: Rollouts) -> np.ndarray:
    """Return each cell's share of the mean pairwise Euclidean distance of its group."""
    from scipy.spatial.distance import cdist

    there = placed(points)
    result = _nothing(rollouts)
    for rows, _ in rollouts.groups():
        judged = rows[there[rows]]
        if len(judged) >= FEWEST_CELLS:
            result[judged] = diversity_shares(cdist(points[judged], points[judged]))
    return lowest_for_the_rest(result, rollouts)


def sentence_diversity(rollouts: Rollouts) -> np.ndarray:
    """Return each cell's share of the mean of ``1 − shared_genes`` over pairs of its group. float64, shape (n,).

    Cells without genes get the lowest of their group; NaN where fewer than three have genes.
    """
    result = _nothing(rollouts)
    if rollouts.cells is None:
        return result
    there = rollouts.cells.lengths > 0
    for rows, _ in rollouts.groups():
        judged = rows[there[rows]]
        if len(judged) >= FEWEST_CELLS:
            cells = rollouts.cells.take(judged)
            distances = 1 - shared_genes(cells, cells)
            np.fill_diagonal(distances, 0)
            result[judged] = diversity_shares(distances)
    return lowest_for_the_rest(result, rollouts)


def lowest_for_the_rest(values: np.ndarray, rollouts: Rollouts) -> np.ndarray:
    """Return the values with NaN replaced by the lowest of the group, where it has one. float64, shape (n,)."""
    result = values.copy()
    for rows, _ in rollouts.groups():
        unknown = np.isnan(values[rows])
        if unknown.any() and not unknown.all():
            result[rows[unknown]] = np.nanmin(values[rows])
    return result
