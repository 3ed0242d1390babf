"""Where a text may be cut so that its tokens are the tokens of the parts.

The tokens of A + B are those of A and those of B when nothing in the tokenizer looks across the boundary. That is
decided here from the last character of A and the first of B alone, both ASCII; any other boundary, and every boundary
of a tokenizer with a part that is not known below, counts as unsafe. Unsafe only costs time: such texts are
tokenised together.

The parts of a tokenizer, in the order in which they see a text:

- *Added tokens* are searched first. None is found across a boundary whose two characters stand side by side in none of
  them. What `single_word`, `lstrip` and `rstrip` look at beside a token is excluded too.
- *Normalizers.* NFC never joins an ASCII character to the one before it and leaves a last ASCII character alone.
  Replacing each space by "▁" looks at nothing else.
- *Pre-tokenizers.* `_regex_cuts` says where cutting does not change how the regular expression of GPT-2 splits the
  rest. It has a look-ahead, so that the white space before a word is not split like white space at the end. Splitting
  digits off first leaves runs without digits, where the same holds.
- *Byte-pair encoding* merges across a boundary only into a token in which its two characters stand side by side.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

#: Code of every character that is not ASCII.
OTHER = 128

_SPACES = " \t\n\r"
_WORD = string.ascii_letters + string.digits + "_"
# What may stand at a safe boundary: control characters are left out.
_PRINTABLE = string.ascii_letters + string.digits + string.punctuation + _SPACES
_BEFORE_SPACE = re.compile(r"(?<=\S)(?=[ \t\n\r])")


def char_code(char: str) -> int:
    """Return the row or column of `Joins.table` for a character: its ASCII code, or `OTHER`."""
    return min(ord(char), OTHER)


class Joins:
    """Which boundaries of a text are safe to cut at.

    Attributes
    ----------
    table : bool array, shape (129, 129)
        `table[a, b]`: a boundary between the characters of codes `a` and `b` is safe (see `char_code`).

    Examples
    --------
    >>> from c2s.tokens.tokenizer import train_text_tokenizer
    >>> joins = Joins.of(train_text_tokenizer(["Genes of a cell: "], 270))
    >>> joins.safe("Genes:", " INS"), joins.safe("Genes: ", "INS")
    (True, False)
    >>> joins.split("Genes of a  cell")
    ['Genes', ' of', ' a', '  cell']
    """

    def __init__(self, table: np.ndarray) -> None:
        self.table = table

    @classmethod
    def of(cls, backend: PreTrainedTokenizerFast) -> Joins:
        """Find the safe boundaries of a fast tokenizer."""
        tokenizer = backend.backend_tokenizer
        table = np.zeros((OTHER + 1, OTHER + 1), dtype=bool)
        cuts = _pre_tokenizer_cuts(tokenizer)
        if cuts is None or not _plain_bpe(tokenizer):
            return cls(table)
        tokens = list(tokenizer.get_vocab(with_added_tokens=False))
        texts = _texts_of_byte_level(tokens) if _is_byte_level(tokenizer) else _texts_of_bpe(tokens)
        # A character without a token of its own may vanish, and then what it stood between is merged.
        known = _members(_single_characters(texts) & set(_PRINTABLE))
        cuts &= known[:, None] & known[None, :] & ~_pairs(texts) & ~_touched_by_added(tokenizer)
        table[:OTHER, :OTHER] = cuts
        return cls(table)

    def safe(self, before: str, after: str) -> bool:
        """Say whether the tokens of `before + after` are those of both; neither may be empty."""
        return bool(self.table[char_code(before[-1]), char_code(after[0])])

    def split(self, text: str) -> list[str]:
        """Cut a text at every safe boundary in front of white space; the parts joined are the text."""
        parts, start = [], 0
        for match in _BEFORE_SPACE.finditer(text):
            at = match.start()
            if self.table[char_code(text[at - 1]), char_code(text[at])]:
                parts.append(text[start:at])
                start = at
        return [*parts, text[start:]] if start < len(text) else parts


def _plain_bpe(tokenizer: Tokenizer) -> bool:
    """Say whether the tokens are plain byte pairs, made by merging neighbours and in no other way."""
    from tokenizers import models

    model = tokenizer.model
    return (
        isinstance(model, models.BPE)
        and not model.dropout
        and not model.ignore_merges
        and not model.continuing_subword_prefix
        and not model.end_of_word_suffix
    )


def _state(part: Any) -> dict[str, Any] | None:
    """Return a normalizer or pre-tokenizer as it stands in a tokenizer file."""
    return None if part is None else dict(json.loads(part.__getstate__()))


def _is_byte_level(tokenizer: Tokenizer) -> bool:
    return "ByteLevel" in json.dumps(_state(tokenizer.pre_tokenizer))


def _pre_tokenizer_cuts(tokenizer: Tokenizer) -> np.ndarray | None:
    """Return where normalizer and pre-tokenizer allow to cut, (128, 128), or None for kinds that are not known."""
    normalizer, splitter = _state(tokenizer.normalizer), _state(tokenizer.pre_tokenizer)
    space_marks = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    if normalizer == space_marks:
        # Gemma: no splitting, or splitting at spaces when none are left.
        no_space_left = splitter is not None and (
            splitter["type"] == "Split" and splitter["pattern"] == {"String": " "}
        )
        everywhere = np.ones((OTHER, OTHER), dtype=bool)
        return everywhere if splitter is None or no_space_left else None
    if normalizer not in (None, {"type": "NFC"}) or splitter is None:
        return None
    steps = splitter["pretokenizers"] if splitter["type"] == "Sequence" else [splitter]
    *first, last = steps
    by_regex = last["type"] == "ByteLevel" and last["use_regex"] and not last["add_prefix_space"]
    if by_regex and all(step["type"] == "Digits" for step in first):
        return _regex_cuts()
    return None


def _regex_cuts() -> np.ndarray:
    r"""Return where the regular expression of GPT-2 may be cut, bool, shape (128, 128).

    It splits a text into contractions ('s 't 're 've 'm 'll 'd), runs of letters, of digits and of other characters,
    each with one space before it, and the rest of the white space: `\s+(?!\S)|\s+`.

    - Behind white space never: its last character may belong to what follows, and how the white space before that one
      is split depends on whether anything follows.
    - Between visible characters and white space always: a run ends there, and white space begins one.
    - Inside a run, cutting only adds a cut, except that letters may be those of a contraction, and that an apostrophe
      begins one only where it does not stand inside a run of other characters.
    """
    spaces, letters = _members(_SPACES), _members(string.ascii_letters)
    others, apostrophe = _members(string.punctuation), _members("'")
    return (
        ~spaces[:, None]
        & ~(letters[:, None] & letters[None, :])
        & ~(apostrophe[:, None] & letters[None, :])
        & ~(others[:, None] & apostrophe[None, :])
    )


def _members(characters: Iterable[str]) -> np.ndarray:
    """Return which ASCII codes are among the characters; bool, shape (128,)."""
    table = np.zeros(OTHER, dtype=bool)
    table[[ord(c) for c in characters if c.isascii() and c]] = True
    return table


@cache
def _byte_of_symbol() -> dict[int, int]:
    """Return the byte for each code point that byte-level tokenizers write it with.

    Visible Latin-1 characters stand for themselves, the other 68 bytes for the code points from 256 on.
    """
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    symbols = [*visible, *range(256, 256 + len(hidden))]
    return dict(zip(symbols, [*visible, *hidden], strict=True))


def _texts_of_byte_level(tokens: list[str]) -> list[bytes]:
    table = _byte_of_symbol()
    # Special tokens stand in the vocabulary as plain text, and may hold what is no symbol.
    return [bytes(table.get(ord(c), 0xFF) for c in token) for token in tokens]


def _texts_of_bpe(tokens: list[str]) -> list[bytes]:
    return [token.replace("▁", " ").encode() for token in tokens]


def _single_characters(texts: list[bytes]) -> frozenset[str]:
    return frozenset(chr(text[0]) for text in texts if len(text) == 1 and text[0] < OTHER)


def _pairs(texts: list[bytes]) -> np.ndarray:
    """Return which ASCII characters stand side by side in any text; bool, shape (128, 128)."""
    joined = np.frombuffer(b"\xff".join(texts), dtype=np.uint8)
    before, after = joined[:-1], joined[1:]
    ascii_pairs = (before < OTHER) & (after < OTHER)
    table = np.zeros((OTHER, OTHER), dtype=bool)
    table[before[ascii_pairs], after[ascii_pairs]] = True
    return table


def _touched_by_added(tokenizer: Tokenizer) -> np.ndarray:
    """Return the boundaries that an added token may reach across; bool, shape (128, 128)."""
    kinds: dict[tuple[bool, bool, bool], set[str]] = {}
    for added in tokenizer.get_added_tokens_decoder().values():
        contents = kinds.setdefault((added.single_word, added.lstrip, added.rstrip), set())
        contents |= {added.content, added.content.replace("▁", " ")}
        if added.normalized and tokenizer.normalizer is not None:
            contents.add(tokenizer.normalizer.normalize_str(added.content))
    touched = np.zeros((OTHER, OTHER), dtype=bool)
    word, space = _members(_WORD), _members(_SPACES)
    for (single_word, lstrip, rstrip), contents in kinds.items():
        touched |= _pairs([content.encode() for content in contents])
        first = _members({content[:1] for content in contents})
        last = _members({content[-1:] for content in contents})
        if single_word:
            touched |= (last[:, None] & word[None, :]) | (word[:, None] & first[None, :])
        if lstrip:
            touched |= space[:, None] & (space | first)[None, :]
        if rstrip:
            touched |= (last | space)[:, None] & space[None, :]
    return touched
