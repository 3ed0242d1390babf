"""Files that are whole or absent: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from c2s.common.errors import C2SError, UsageError


def _explain(error: OSError, path: Path) -> C2SError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return C2SError(f"{path}: no space left on the disk; nothing was written there")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return C2SError(f"{path}: no permission to write there")
    return C2SError(f"{path}: cannot be written ({error.strerror or error})")


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success rename it to `path`, on failure remove it.

    The temporary name keeps the suffix of `path`, because some writers choose a format by it.

    Raises
    ------
    C2SError
        The folder is missing or not writable, or the disk is full. `path` is left as it was.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise UsageError(f"{target}: the folder {target.parent} does not exist")
    try:
        fd, name = tempfile.mkstemp(prefix=".c2s-", suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise _explain(error, target) from error
    os.close(fd)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        # h5py reports a full disk as an OSError without errno; look at the disk itself.
        if error.errno is None and _disk_is_full(target.parent):
            error.errno = errno.ENOSPC
        raise _explain(error, target) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`.

    An existing folder at `path` is kept until the new one is complete, and removed after.

    Raises
    ------
    C2SError
        `path` is a file, the parent folder is not writable, or the disk is full. `path` is left as
        it was.
    """
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target}: is a file, and a folder is to be written; give another name")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".c2s-", dir=target.parent))
    except OSError as error:
        raise _explain(error, target) from error
    try:
        yield temporary
        # safetensors keeps what it writes to its owner; a folder is shared as the user's own files are.
        for path in (temporary, *temporary.rglob("*")):
            os.chmod(path, (0o777 if path.is_dir() else 0o666) & ~_umask())
        if target.exists():
            _swap(temporary, target)
        else:
            os.replace(temporary, target)
    except OSError as error:
        if error.errno is None and _disk_is_full(target.parent):
            error.errno = errno.ENOSPC
        raise _explain(error, target) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of `target`, or leave `target` as it is."""
    aside = Path(tempfile.mkdtemp(prefix=".c2s-old-", dir=target.parent))
    try:
        os.replace(target, aside / target.name)
        try:
            os.replace(new, target)
        except OSError:
            os.replace(aside / target.name, target)
            raise
    except OSError:
        # Not rmtree: what could not be put back must not be deleted.
        with suppress(OSError):
            aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _disk_is_full(folder: Path) -> bool:
    return shutil.disk_usage(folder).free < 1 << 20


def refuse_foreign(folder: Path, written: set[str]) -> None:
    """Refuse to replace a folder that holds anything but what the same command wrote before.

    Parameters
    ----------
    folder
        The place for the results; fine if it is missing or empty.
    written
        Names of the files and folders that the command leaves there.

    Raises
    ------
    UsageError
        There is something else.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; give a folder")
    foreign = (
        # Names of `atomic_file` and `atomic_directory`: a run was killed while it wrote.
        sorted(
            p.name
            for p in folder.iterdir()
            if p.name not in written and not p.name.startswith(".c2s-")
        )
        if folder.exists()
        else []
    )
    if foreign:
        raise UsageError(
            f"{folder}: holds something that is not an earlier run ({foreign[0]!r}); give another folder with --out"
        )


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def json_able(value: Any) -> Any:
    """Return nested values as JSON can hold them: an undefined number (NaN, infinite) becomes None."""
    if isinstance(value, dict):
        return {str(k): json_able(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_able(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
