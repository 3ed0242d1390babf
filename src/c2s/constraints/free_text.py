"""Free text: any tokens, up to a number, ended by the model itself."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from c2s.common.errors import UsageError


class FreeText:
    """A text of any tokens, at least one, that ends where the model ends it, or is cut off.

    Parameters
    ----------
    n_tokens
        Tokens of the vocabulary; ids are below it.
    end_token
        What ends a text.
    most
        Tokens of a text at most, its end counted.
    never
        Ids that no text may have, such as padding.

    Raises
    ------
    UsageError
        `most` is below 2, which leaves no room for a text and its end.
    """

    def __init__(
        self, n_tokens: int, end_token: int, most: int, never: Collection[int] = ()
    ) -> None:
        if most < 2:
            raise UsageError(f"a text of at most {most} tokens, its end counted, cannot be written")
        self.end_token, self.max_tokens = end_token, most
        good = np.setdiff1d(np.arange(n_tokens), [*never, end_token])
        self.first = good
        self.later = np.union1d(good, [end_token])

    def start(self) -> FreeTextState:
        """Return the state before the first token."""
        return FreeTextState(self)


class FreeTextState:
    """Where one text stands.

    Attributes
    ----------
    tokens : list of int
        What was written, without the end.
    ended
        Whether the model ended it, rather than the number of tokens.
    """

    def __init__(self, constraint: FreeText) -> None:
        self._constraint = constraint
        self.tokens: list[int] = []
        self.ended = False

    @property
    def done(self) -> bool:
        """Whether the text is complete or cut off."""
        return self.ended or len(self.tokens) >= self._constraint.max_tokens

    @property
    def progress(self) -> float:
        """0: the answer is no cell."""
        return 0.0

    def allowed(self) -> np.ndarray:
        """Return the token ids that may come next. int64, ascending."""
        return self._constraint.later if self.tokens else self._constraint.first

    def advance(self, token: int) -> None:
        """Take the next token."""
        if token == self._constraint.end_token:
            self.ended = True
        else:
            self.tokens.append(token)
