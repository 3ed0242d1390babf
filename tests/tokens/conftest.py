"""The tokenizers that the tests of this room go through: three real ones, and a small trained one."""

import pytest

from c2s.tokens.tokenizer import add_gene_tokens, load_tokenizer, train_text_tokenizer

SMALL = (
    "Genes of a Homo sapiens cell, highest first:\nCell type: beta. Which is it? (5)!\n\n Don't!"
)
REAL = ("gpt-neox", "smollm2", "gemma")


@pytest.fixture(scope="session")
def backend(request):
    """Return a function that loads a tokenizer, whole for a name, with gene tokens if genes are given.

    Those without gene tokens are loaded once; they are not to be changed.
    """
    loaded = {}

    def load(name, genes=None):
        if genes is None and name in loaded:
            return loaded[name]
        if name in REAL:
            made = load_tokenizer(request.getfixturevalue("real_tokenizers") / name)
        else:
            made = train_text_tokenizer([SMALL], 330)
        if genes is None:
            loaded[name] = made
        else:
            add_gene_tokens(made, genes)
        return made

    return load
