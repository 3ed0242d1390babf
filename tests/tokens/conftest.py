"""The tokenizers that the tests of this room go through: three real ones, and two small trained ones."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from c2s.tokens.tokenizer import add_gene_tokens, load_tokenizer, train_text_tokenizer

SMALL = "Genes of a Homo sapiens cell, highest first:\nCell type: beta. Which is it? (5)!\n\n Don't! Can't?"
REAL = ("gpt-neox", "smollm2", "gemma")


def spanning_tokenizer():
    """A tokenizer made as Gemma's is, but with tokens that span words: few of its boundaries are safe."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Replace("▁", " ")
    alphabet = [*map(chr, range(33, 127)), "▁", "\n"]
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<eos>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    genes = "REG1A CTRB2 PRSS2 CTRB1 REG1B CELA3A INS IAPP TTR GCG PPY SST HLA-A MT-CO1 7SK C7"
    texts = [SMALL, f"Cell 1: {genes}.\nCell 2:\n{genes}\nCell type: beta.", genes, genes[::-1]]
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


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
        elif name == "spanning":
            made = spanning_tokenizer()
        else:
            made = train_text_tokenizer([SMALL], 330)
        if genes is None:
            loaded[name] = made
        else:
            add_gene_tokens(made, genes)
        return made

    return load
