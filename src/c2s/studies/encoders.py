"""The encoders of a study: by name, fitted on its training cells, each opened once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec

from c2s.common.errors import UsageError, missing_extra
from c2s.encoders.base import CellEncoder
from c2s.encoders.c2s_model import C2SEncoder
from c2s.encoders.opening import ENCODERS, open_encoder
from c2s.models.directory import Model
from c2s.studies.cells import TRAIN, StudyCells


class StudyEncoders:
    """Encoders by what recipes call them.

    Parameters
    ----------
    cells
        Those to be fitted learn from the training cells, in measured expression.
    device
        Where networks run.
    seed
        Of what is fitted.
    """

    def __init__(self, cells: StudyCells, device: str | None, seed: int) -> None:
        self.cells, self.device, self.seed = cells, device, seed
        self._opened: dict[str, CellEncoder] = {}

    def check(self, specs: Sequence[str]) -> None:
        """Refuse names that cannot work, before any work; encoders that lie in a folder are opened already.

        Raises
        ------
        UsageError
            A kind is unknown, needs a folder, more training cells, or a package that is not installed.
        InputError
            What is in the folder cannot be read.
        """
        if len(set(specs)) < len(specs):
            raise UsageError(f"encoders: one is named twice: {', '.join(specs)}")
        for spec in specs:
            kind, _, where = spec.strip().partition(":")
            if kind == "scvi" and find_spec("scvi") is None:
                raise missing_extra("scvi-tools", "scvi")
            if kind in ENCODERS and not where.isdigit() and (where or kind not in ("pca", "scvi")):
                self.open(spec)
            elif kind not in ENCODERS:
                open_encoder(spec)  # says which kinds there are
            elif kind == "pca" and int(where or 1) >= len(self.cells.rows(TRAIN)):
                raise UsageError(
                    f"encoder {spec!r}: components must be fewer than the training cells, of which there are "
                    f"{len(self.cells.rows(TRAIN)):,}"
                )

    def open(self, spec: str) -> CellEncoder:
        """Return an encoder; errors as `c2s.encoders.opening.open_encoder`."""
        if spec not in self._opened:
            rows = self.cells.rows(TRAIN)
            kind = spec.partition(":")[0]
            self._opened[spec] = open_encoder(
                spec,
                training=(self.cells.values[rows], self.cells.vocabulary),
                counts=self.cells.counts[rows] if kind == "scvi" else None,
                device=self.device,
                seed=self.seed,
            )
        return self._opened[spec]


def model_encoder(model: Model, cells: StudyCells, seed: int) -> CellEncoder:
    """Return the space of a model's hidden states; its prompt names the commonest organism of the cells."""
    organism = Counter(str(name) for name in cells.organism).most_common(1)[0][0]
    return C2SEncoder(model, organism=organism, seed=seed)
