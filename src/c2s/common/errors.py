"""What goes wrong, said in one line.

Every error that a user can cause is a `C2SError` whose message names the file, cell, gene or field,
what was found, what was expected and what to do. The command line prints that line and exits with
`exit_code`; a traceback means a defect of ours.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Sequence


class C2SError(Exception):
    """A failure that is explained in one line. Exit code 1."""

    exit_code = 1


class InputError(C2SError, ValueError):
    """Data, a file or a model directory that cannot be used as it is. Exit code 1."""


class UsageError(C2SError, ValueError):
    """An argument, option or recipe field that cannot work. Exit code 2."""

    exit_code = 2


class Stopped(C2SError):
    """The user stopped the work. Exit code 130, as a shell gives it."""

    exit_code = 130


class C2SWarning(UserWarning):
    """Something the user should know and that did not stop the work."""


def warn(message: str) -> None:
    """Raise a `C2SWarning` that points at the caller of the public function."""
    warnings.warn(message, C2SWarning, stacklevel=3)


def missing_extra(package: str, extra: str) -> C2SError:
    """Return the error for an optional dependency that is not installed."""
    return UsageError(
        f"{package} is not installed; install it with: pip install 'c2s-toolkit[{extra}]'"
    )


def nearest(word: str, known: Iterable[str], n: int = 3) -> list[str]:
    """Return up to `n` known words that look most like `word`, best first."""
    known = list(known)
    folded = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(word.casefold(), folded, n=n, cutoff=0.5)
    return [folded[c] for c in close]


def listing(words: Sequence[str], limit: int = 12) -> str:
    """Return `a, b, c and 9 more`, for use in messages."""
    shown = ", ".join(str(w) for w in words[:limit])
    rest = len(words) - limit
    return f"{shown} and {rest:,} more" if rest > 0 else shown


def counted(n: int, noun: str) -> str:
    """Return `1 cell` or `1,204 cells`, for use in messages."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
