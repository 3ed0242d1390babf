"""Wherever a text is cut at a safe boundary, the tokens are those of the tokenizer for the whole."""

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from c2s.cells.vocabulary import GeneVocabulary
from c2s.tokens.joins import OTHER, Joins, char_code
from c2s.tokens.tokenizer import train_text_tokenizer

GENES = GeneVocabulary("INS INSR INS-IGF2 HLA-A A1BG T TTR C7 CD3D CAT 7SK AC004556.1".split())
REAL = ["gpt-neox", "smollm2", "gemma"]
NAMES = ["small", "spanning", *REAL]

# What the parts of a tokenizer look at: contractions, digits, white-space runs, letters that compose, the character
# that stands for a space, added tokens, and beginnings of them.
ALPHABETS = [
    " ab'srelvd.,!?\n\t5",
    "INST CAT.A1-7 \n_",
    " \n\t x'1é▁ñ\u0301\u00a0ßK\u212a",
    "abc ABC 012 .:,;()[]{}'\"\n  -_/<>|",
    "".join(map(chr, range(1, 128))) + "é\u0301\u3000▁細",
]
WORDS = """the|cell| cell|'s|'ll|'re|INS|INSR| INS|INS-IGF2|HLA-A|AC004556.1|CAT|T|don't|12|:|(5)|gene,|...|...)|  |
|

| |    |\t|<eos>|</b>|<|endoftext|<0x0A>|▁|é|e\u0301|\u0301|\u00a0""".split("|")
TEXTS = st.one_of(
    *(st.text(alphabet, min_size=2, max_size=12) for alphabet in ALPHABETS),
    st.lists(st.sampled_from(WORDS), min_size=2, max_size=6).map("".join),
)


def ids_of(backend, texts):
    return backend(texts, add_special_tokens=False)["input_ids"] if texts else []


def cut_everywhere(backend, joins, texts):
    """Return (A, B, whether the tokens of A + B are those of both) at each safe boundary of the texts."""
    cuts = [
        (text[:i], text[i:])
        for text in texts
        for i in range(1, len(text))
        if joins.safe(text[:i], text[i:])
    ]
    before = ids_of(backend, [a for a, _ in cuts])
    behind = ids_of(backend, [b for _, b in cuts])
    whole = dict(zip(texts, ids_of(backend, texts), strict=True))
    return [
        (a, b, x + y == whole[a + b]) for (a, b), x, y in zip(cuts, before, behind, strict=True)
    ]


@pytest.fixture(scope="module", params=[(n, g) for n in NAMES for g in (False, True)], ids=str)
def cutting(request, backend):
    name, with_genes = request.param
    made = backend(name, GENES if with_genes else None)
    return made, Joins.of(made)


class TestSafe:
    @settings(deadline=None, max_examples=150)
    @given(text=TEXTS)
    # Each of these is cut wrongly if one of the rules is left out.
    @example(text="the  5")
    @example(text="a:\n\nB")
    @example(text="it'sort we'lld")
    @example(text="!'s")
    @example(text="!'t")
    @example(text="a'st")
    @example(text="a'rest")
    @example(text="a e\u0301")
    @example(text="a ▁▁b")
    @example(text="T5 INS_ INSa  INS")
    def test_the_tokens_of_both_parts(self, cutting, text):
        backend, joins = cutting
        assert [cut for cut in cut_everywhere(backend, joins, [text]) if not cut[2]] == []

    def test_the_tokens_of_both_parts_of_many_texts(self, cutting):
        rng = random.Random(5)
        texts = [
            "".join(rng.choices(rng.choice(ALPHABETS), k=rng.randint(2, 14))) for _ in range(1500)
        ]
        texts += ["".join(rng.choices(WORDS, k=rng.randint(2, 7))) for _ in range(1500)]
        cuts = cut_everywhere(*cutting, texts)
        assert len(cuts) > 2000
        assert [cut for cut in cuts if not cut[2]] == []

    @pytest.mark.parametrize("name", REAL)
    def test_before_a_space_and_a_line_always(self, backend, name):
        """What the speed of the corpus rests on."""
        joins = Joins.of(backend(name))
        visible = map(chr, range(33, 127))
        assert all(joins.safe(c, " ") and joins.safe(c, "\n") for c in visible)

    @pytest.mark.parametrize("name", REAL)
    def test_between_a_gene_and_a_full_stop(self, backend, name):
        joins = Joins.of(backend(name))
        for word in GENES.words:
            assert joins.safe(word, ".\n") or word.endswith(
                "T"
            )  # "T." is an INS-like token of none

    def test_never_next_to_what_is_not_ascii(self, cutting):
        _, joins = cutting
        assert not joins.safe("é", " a")
        assert not joins.safe("a", "\u0301")
        assert not joins.table[OTHER].any()
        assert not joins.table[:, OTHER].any()

    def test_a_pair_of_letters_of_the_vocabulary(self, backend):
        assert not Joins.of(backend("small")).safe("C", "ell")
        assert not Joins.of(backend("gemma")).safe("C", "ell")

    def test_char_code(self):
        assert [char_code(c) for c in " A~\x7fé細"] == [32, 65, 126, 127, OTHER, OTHER]


def with_parts(*, pre_tokenizer=None, normalizer=None, model=None, added=()):
    tokenizer = Tokenizer.from_str(train_text_tokenizer(["a cell"], 260).backend_tokenizer.to_str())
    if model is not None:
        tokenizer.model = model
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


class TestUnknownParts:
    @pytest.mark.parametrize(
        "parts",
        [
            {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)},
            {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)},
            {"pre_tokenizer": pre_tokenizers.Metaspace()},
            {
                "pre_tokenizer": pre_tokenizers.Sequence(
                    [
                        pre_tokenizers.Split(Regex(r"\w+ \w+"), "isolated"),
                        pre_tokenizers.ByteLevel(add_prefix_space=False),
                    ]
                )
            },
            {"normalizer": normalizers.NFKC()},
            {"normalizer": normalizers.Prepend("▁")},
            {"normalizer": normalizers.Sequence([normalizers.NFC(), normalizers.Strip()])},
            {"model": models.WordPiece({"a": 0}, unk_token="a")},
            {"model": models.BPE({"a": 0}, [], ignore_merges=True)},
            {"model": models.BPE({"a": 0}, [], dropout=0.1)},
            {"model": models.BPE({"a": 0}, [], end_of_word_suffix="</w>")},
        ],
        ids=str,
    )
    def test_are_never_safe(self, parts):
        assert not Joins.of(with_parts(**parts)).table.any()

    def test_the_same_tokenizer_with_known_parts_is(self):
        nfc = with_parts(normalizer=normalizers.NFC())
        assert Joins.of(nfc).safe("cell", " type")

    def test_a_character_without_a_token_is_not_safe(self):
        symbols = {c: i for i, c in enumerate("abcĠ")}
        made = with_parts(model=models.BPE(symbols, []))
        assert Joins.of(made).safe("a", " b")
        assert not Joins.of(made).safe("d", " b")

    def test_added_tokens_that_reach_out(self):
        plain = Joins.of(with_parts())
        reaching = Joins.of(
            with_parts(
                added=[
                    AddedToken("(Q)", rstrip=True, normalized=False),
                    AddedToken("w w", normalized=False),
                ]
            )
        )
        assert plain.safe("(Q)", " a")
        assert not reaching.safe("(Q)", " a")
        assert plain.safe("w", " w")
        assert not reaching.safe("w", " w")
        assert reaching.safe("v", " w")


class TestSplit:
    @settings(deadline=None, max_examples=60)
    @given(text=TEXTS)
    def test_the_pieces_are_the_text_and_their_tokens_its_tokens(self, cutting, text):
        backend, joins = cutting
        pieces = joins.split(text)
        assert "".join(pieces) == text
        assert all(pieces)
        together = [i for ids in ids_of(backend, pieces) for i in ids]
        assert together == ids_of(backend, [text])[0]

    @pytest.mark.parametrize("name", REAL)
    def test_words_come_apart(self, backend, name):
        joins = Joins.of(backend(name))
        words = "A|  single|\n\ncell,| highest|\tfirst:| ".split("|")
        assert joins.split("".join(words)) == words
        assert joins.split("") == []
