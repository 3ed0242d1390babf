"""What teachers answered, kept on disk by content: a question is paid for once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from c2s.common.errors import InputError
from c2s.common.files import atomic_file


@dataclass(frozen=True)
class Request:
    """One question to a teacher.

    Attributes
    ----------
    label
        Names the question in errors, such as "study 'GSE84133'"; not part of its content.
    messages
        Role ("user", "assistant", "system") and text of each message.
    sample
        Number of the sample: the same messages asked again for another answer.
    """

    label: str
    messages: tuple[tuple[str, str], ...]
    sample: int = 0


@dataclass(frozen=True)
class Answer:
    """What a teacher said.

    Attributes
    ----------
    text
        As it came; empty if the teacher refused.
    finish
        Why it ended, in the protocol's words: "stop", or "length" where `max_tokens` cut it.
    input_tokens, output_tokens
        As the endpoint counted them; None if it did not say.
    """

    text: str
    finish: str
    input_tokens: int | None = None
    output_tokens: int | None = None


class AnswerCache:
    """A folder with one JSON file an answer, named by the SHA-256 of what was asked.

    Neither the address nor the key of the endpoint is part of a question or of its file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def prepare(self) -> None:
        """Make the folder, before anything is asked that could not be kept.

        Raises
        ------
        InputError
            It cannot be made.
        """
        self._make(self.folder)

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.folder}: the folder for the teacher's answers cannot be made ({error.strerror})"
            ) from error

    def path(self, key: str) -> Path:
        """Return the file of a question, in one of 256 folders, so that no folder grows without bound."""
        return self.folder / key[:2] / f"{key}.json"

    def read(self, key: str) -> Answer | None:
        """Return the answer to a question, or None if there is none or its file is damaged.

        Raises
        ------
        InputError
            The file is there and cannot be opened.
        """
        path = self.path(key)
        try:
            record = json.loads(path.read_bytes())
            if record["key"] != key or record["check"] != digest(record["answer"]):
                return None
            return Answer(**record["answer"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError):  # damaged: what was paid for is asked once more
            return None

    def write(self, key: str, question: dict[str, Any], answer: Answer) -> None:
        """Keep an answer; a file that is there is replaced whole.

        Raises
        ------
        C2SError
            The file cannot be written.
        """
        record = {"key": key, **question, "answer": asdict(answer), "check": digest(asdict(answer))}
        path = self.path(key)
        self._make(path.parent)
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", "utf-8")


def digest(content: dict[str, Any]) -> str:
    """Return the SHA-256 of a JSON object, whatever the order of its fields."""
    return hashlib.sha256(
        json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()
