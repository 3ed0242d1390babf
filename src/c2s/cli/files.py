"""What commands read and write beside data: lists of names, results, one line that says what was done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c2s.common.errors import InputError, UsageError

if TYPE_CHECKING:
    from anndata import AnnData

    from c2s.analysis.cells import Rows
    from c2s.analysis.streaming import Streamed
    from c2s.analysis.work import Work


def text_lines(path: Path) -> list[str]:
    """Return the lines of a text file without white space at either end; empty ones are left out.

    Raises
    ------
    InputError
        It cannot be read as text.
    """
    try:
        lines = (line.strip() for line in path.read_text("utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from error
    return [line for line in lines if line]


def check_out(path: Path, *suffixes: str) -> None:
    """Refuse, before the work starts, a place that cannot be written, or whose name ends in none of the suffixes."""
    if path.suffix not in suffixes:
        raise UsageError(f"--out {path}: must end in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise UsageError(f"--out {path}: the folder {path.parent} does not exist")


def write_h5ad(adata: AnnData, path: Path) -> None:
    """Write data beside its place and rename it; what stood there stays until then."""
    from c2s.common.files import atomic_file

    check_out(path, ".h5ad")
    with atomic_file(path) as temporary:
        adata.write_h5ad(temporary, compression="gzip")


def work_on_file(
    source: Path,
    out: Path,
    make: Callable[[Rows], Work],
    *,
    layer: str | None = None,
    chunk_size: int | None = None,
) -> Streamed:
    """Do a verb's work on the cells of a file and write a copy of the data with what was found.

    An `.h5ad` file is worked through in chunks and can be restarted; other kinds, and files of an anndata before 0.7,
    are read as a whole.
    """
    from c2s.analysis.cells import Rows
    from c2s.analysis.streaming import Streamed, stream
    from c2s.analysis.work import CHUNK, fill
    from c2s.cells.readers import is_current_h5ad, read

    check_out(out, ".h5ad")
    size = CHUNK if chunk_size is None else chunk_size
    if is_current_h5ad(source):
        return stream(source, out, make, layer=layer, chunk_size=size)
    adata = read(source)
    work = make(Rows.of(adata, layer))
    fill(adata, work, size)
    write_h5ad(adata, out)
    widths = {key: int(adata.obsm[key].shape[1]) for key in work.slots["obsm"]}
    return Streamed(adata.obs, widths, 0)


def resumed(done: Streamed) -> str:
    """Say how many cells an earlier run had finished, or nothing."""
    return f" ({done.resumed:,} of them finished by an earlier run)" if done.resumed else ""


def say(as_json: bool, facts: dict[str, Any], text: str) -> None:
    """Print what was done, for a program or a person."""
    print(json.dumps(facts) if as_json else text)
