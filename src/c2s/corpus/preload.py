"""What worker processes have in common, loaded once, before they fork: they share its memory."""

from __future__ import annotations

import gc
import signal

# An interrupt is the main process's to handle; this one and the workers would only print where they were.
signal.signal(signal.SIGINT, signal.SIG_IGN)

import transformers  # noqa: E402, F401
from numba.core.registry import cpu_target  # noqa: E402

import c2s.corpus.unit  # noqa: E402, F401

# What numba reads before the first compiled function runs: 50 MB and a quarter of a second for every process. No kernel
# runs here, because those that use threads cannot be forked after.
cpu_target.typing_context.refresh()
cpu_target.target_context.refresh()
# Pages that the collector does not visit stay shared.
gc.freeze()


def run_kernels_once() -> None:
    """Load the compiled kernels of a unit, in a worker process, while there is nothing else to do."""
    import numpy as np
    import scipy.sparse as sp

    from c2s.cells.ranked import rank_matrix
    from c2s.cells.vocabulary import GeneVocabulary
    from c2s.corpus import kernels

    block = sp.csr_matrix(np.eye(2, dtype=np.float32))
    words = GeneVocabulary(["A", "B"])
    rank_matrix(block, words, ["x", "y"], top_k=np.ones(2, np.int64)).to_text()
    wrong, n, share = np.empty(2, np.uint8), np.empty(2, np.int64), np.empty(2)
    content, none = np.empty(2, np.uint64), np.empty(0, bool)
    kernels.look_at_rows(
        block.data, block.indices, block.indptr, 2, words.keys(), none, wrong, n, share, content
    )
