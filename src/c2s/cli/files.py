"""Small files that commands read."""

from __future__ import annotations

from pathlib import Path

from c2s.common.errors import InputError


def text_lines(path: Path) -> list[str]:
    """Return the lines of a text file without white space at either end; empty ones are left out.

    Raises
    ------
    InputError
        It cannot be read as text.
    """
    try:
        lines = (line.strip() for line in path.read_text("utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from error
    return [line for line in lines if line]
