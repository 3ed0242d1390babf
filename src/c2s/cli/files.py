"""What commands read and write beside data: lists of names, results, one line that says what was done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c2s.common.errors import InputError, UsageError

if TYPE_CHECKING:
    from anndata import AnnData


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


def check_out(path: Path, suffix: str) -> None:
    """Refuse, before the work starts, a place that cannot be written."""
    if path.suffix != suffix:
        raise UsageError(f"--out {path}: must end in {suffix}")
    if not path.parent.is_dir():
        raise UsageError(f"--out {path}: the folder {path.parent} does not exist")


def write_h5ad(adata: AnnData, path: Path) -> None:
    """Write data beside its place and rename it; what stood there stays until then."""
    from c2s.common.files import atomic_file

    check_out(path, ".h5ad")
    with atomic_file(path) as temporary:
        adata.write_h5ad(temporary, compression="gzip")


def say(as_json: bool, facts: dict[str, Any], text: str) -> None:
    """Print what was done, for a program or a person."""
    print(json.dumps(facts) if as_json else text)
