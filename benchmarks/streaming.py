"""Memory of embedding from file to file, beside embedding the file in memory, for files of two sizes.

    python benchmarks/streaming.py

Each case runs in a process of its own, on a tiny network and cells with 10,000 genes each, so that the matrix is what
takes memory. Told is by how much the peak of its resident memory rises from when the file is opened.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

CASE = """
import resource, sys
import anndata, scanpy, torch, transformers
import c2s
from c2s.common.transformers_log import quiet_transformers

how, source, out, model, chunk = sys.argv[1:]
model = c2s.load_model(model, device="cpu")
c2s.tl.embed(c2s.datasets.pancreas()[:50].copy(), model)  # compiles the kernels
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if how == "streamed":
    c2s.tl.embed_file(source, out, model, chunk_size=int(chunk))
else:
    adata = c2s.read(source)
    c2s.tl.embed(adata, model, chunk_size=int(chunk))
    adata.write_h5ad(out)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def write_cells(path: Path, n_cells: int, per_cell: int) -> None:
    """Write cells of random counts on the genes of the pancreas data."""
    import anndata as ad
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

    from c2s.datasets import pancreas

    var = pancreas().var
    rng = np.random.default_rng(0)
    genes = np.stack([np.sort(rng.permutation(len(var))[:per_cell]) for _ in range(64)])
    matrix = sp.csr_matrix(
        (
            rng.poisson(3, n_cells * per_cell).astype(np.float32) + 1,
            genes[np.arange(n_cells) % 64].ravel().astype(np.int32),
            np.arange(n_cells + 1) * per_cell,
        ),
        shape=(n_cells, len(var)),
    )
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)])
    ad.AnnData(matrix, obs=obs, var=var).write_h5ad(path)


def write_model(path: Path) -> None:
    """Write a network of random weights, as small as can be, that knows 64 genes."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    from c2s.cells.vocabulary import GeneVocabulary
    from c2s.datasets import pancreas
    from c2s.models.directory import Model, ModelCard
    from c2s.tokens.tokenizer import CellTokenizer, add_gene_tokens, train_text_tokenizer

    words = GeneVocabulary.from_var(pancreas().var).words[:64]
    vocabulary = GeneVocabulary.from_words(words)
    backend = train_text_tokenizer(["Cell type: beta"], 400)
    add_gene_tokens(backend, vocabulary)
    tokenizer = CellTokenizer(backend, vocabulary, "genes")
    torch.manual_seed(0)
    network = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(backend), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16, max_position_embeddings=1024,
        )
    )  # fmt: skip
    card = ModelCard(
        vocabulary=list(words), mode="genes", top_k=8, tasks=["cell_type"], conditions={"organism": ["Homo sapiens"]}
    )  # fmt: skip
    Model(network, tokenizer, card).save(path)


def _alone(work: Callable[..., None], *arguments: object) -> None:
    """Run work in a process of its own: the peak that a process counts begins with the size of its parent."""
    process = get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[2000, 8000])
    parser.add_argument("--genes", type=int, default=10_000, help="of a cell")
    parser.add_argument("--chunk-size", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _alone(write_model, folder / "model")
        for n_cells in options.cells:
            source = folder / "in.h5ad"
            _alone(write_cells, source, n_cells, options.genes)
            for how in ("streamed", "in memory"):
                arguments = (how, source, folder / "out.h5ad", folder / "model", options.chunk_size)
                done = subprocess.run(
                    [sys.executable, "-W", "ignore", "-c", CASE, *map(str, arguments)],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                print(
                    f"{n_cells:,} cells in {source.stat().st_size / 2**20:,.0f} MB, {how}: "
                    f"peak {float(done.stdout.split()[-1]):,.0f} MB more"
                )


if __name__ == "__main__":
    main()
