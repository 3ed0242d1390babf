"""The file of study abstracts: JSON lines, one study a line.

`{"study": "GSE84133", "abstract": "Although …", "paraphrases": ["…", "…"]}`; paraphrases may be left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c2s.common.errors import InputError, nearest
from c2s.common.files import atomic_file

_FIELDS = ("study", "abstract", "paraphrases")


@dataclass(frozen=True)
class Study:
    """A study and what is written about it.

    Attributes
    ----------
    study
        Its name, as the cells' `study` column has it.
    abstract
        The abstract of its paper.
    paraphrases
        The abstract in other words; may be empty.
    """

    study: str
    abstract: str
    paraphrases: tuple[str, ...] = ()


def read_abstracts(path: str | os.PathLike[str]) -> dict[str, Study]:
    """Read a file of abstracts; return its studies by name, in the order of the file.

    Empty lines are passed over.

    Raises
    ------
    InputError
        The file cannot be read or holds no study, or a line is not a JSON object with the fields above, has
        an empty text, or names a study that an earlier line names. The message names file and line.
    """
    studies: dict[str, Study] = {}
    lines: dict[str, int] = {}
    # Cut at line feeds only: JSON may hold U+2028 and the like as they are, and `splitlines` cuts there.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        study = _study(line, where)
        if study.study in studies:
            raise InputError(
                f"{where}: the study {study.study!r} stands in line {lines[study.study]} already; a study has one line"
            )
        studies[study.study], lines[study.study] = study, number
    if not studies:
        raise InputError(
            f'{path}: holds no study; expected lines such as {{"study": …, "abstract": …}}'
        )
    return studies


def write_abstracts(path: str | os.PathLike[str], studies: Iterable[Study]) -> None:
    """Write studies, in the order given, so that `read_abstracts` returns the same.

    Raises
    ------
    InputError
        Two studies have the same name, or a text is empty or not Unicode.
    C2SError
        The file cannot be written.
    """
    written: set[str] = set()
    rows = []
    for study in studies:
        row: dict[str, Any] = {"study": study.study, "abstract": study.abstract}
        if study.paraphrases:
            row["paraphrases"] = list(study.paraphrases)
        _check(row, f"{path}, study {study.study!r}")
        if study.study in written:
            raise InputError(f"{path}: the study {study.study!r} is given twice")
        written.add(study.study)
        rows.append(json.dumps(row, ensure_ascii=False) + "\n")
    with atomic_file(path) as temporary:
        temporary.write_bytes("".join(rows).encode())


def _text(path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not a text in UTF-8 (byte {error.start}); save it as UTF-8"
        ) from error


def _study(line: str, where: str) -> Study:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise InputError(f'{where}: expected an object such as {{"study": …, "abstract": …}}')
    _check(row, where)
    return Study(row["study"], row["abstract"], tuple(row.get("paraphrases") or ()))


def _check(row: dict[str, Any], where: str) -> None:
    """Refuse an object that is not a study."""
    for name in row:
        if name not in _FIELDS:
            close = nearest(name, _FIELDS)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(_FIELDS)}"
            raise InputError(f"{where}: unknown field {name!r}; {hint}")
    for name in ("study", "abstract"):
        if name not in row:
            raise InputError(f"{where}: the field {name!r} is missing")
        _check_text(row[name], name, where)
    paraphrases = row.get("paraphrases")
    if paraphrases is None:
        return
    if not isinstance(paraphrases, list):
        raise InputError(f"{where}: 'paraphrases' must be a list of texts")
    for i, text in enumerate(paraphrases, start=1):
        _check_text(text, f"paraphrase {i}", where)


def _check_text(text: object, name: str, where: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"{where}: {name} must be a text, found {json.dumps(text)[:40]}")
    if not text.strip():
        raise InputError(f"{where}: {name} is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: {name} holds half a character (a lone surrogate)") from error
