"""Conditional cell generation: cells of given types, as sentences and as expression (SPEC §4.1 task 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from c2s.analysis.cells import record
from c2s.cells.ranked import RankedCells
from c2s.common.errors import UsageError, listing
from c2s.common.progress import progress_bar
from c2s.common.seeds import generator
from c2s.constraints.trie import GeneSentence, GeneSentenceState, TokenTrie
from c2s.decoding.engine import Engine, Sampling
from c2s.decoding.opening import EngineName, open_engine
from c2s.models.directory import Model
from c2s.tasks.single_cell import CONDITIONAL_CELL

if TYPE_CHECKING:
    from anndata import AnnData


def generate(
    model: Model,
    cell_type: str | Sequence[str] | None = None,
    n: int = 1,
    *,
    organism: str | None = None,
    top_k: int | None = None,
    genes: Sequence[str] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    batch_size: int | None = None,
    strict: bool = False,
    seed: int = 0,
    engine: EngineName | Engine = "transformers",
) -> AnnData:
    """Generate cells of given types.

    Every sentence consists of genes of the model's vocabulary, none twice, exactly `top_k` of them: the
    model chooses among what keeps this possible, token by token.

    Parameters
    ----------
    model
        Trained on conditional generation.
    cell_type
        One type, or several; by default every type that the model was trained on.
    n
        Cells of each type.
    organism
        By default the only one that the model knows.
    top_k
        Genes of each cell; by default as many as the model was trained on.
    genes
        A panel: only these genes may be written.
    temperature
        Of sampling; by default what was chosen on validation cells when the model was trained, else 1. 0 takes
        the most probable gene at each step; cells of a type then differ only by the wording of their prompt.
    top_p
        Sample from the most probable tokens that together reach this probability; by default as for
        `temperature`.
    batch_size
        Cells in a batch; by default what fits the machine.
    strict
        Refuse a type that the model never saw; otherwise it is named in a warning and tried.
    seed
        Decides every draw.
    engine
        What runs the model: "transformers", "vllm", or an open engine. The cells are the same, up to rounding.

    Returns
    -------
    AnnData
        `X`: reconstructed expression `log10(1 + ·)`, CSR float32 (SPEC §3); `obs`: `cell_type`, `organism`,
        `cell_sentence`; `var`: the model's genes as written in sentences, and
        `symbol` in original case; `uns["c2s"]["generate"]`: the request, model and versions.

    Raises
    ------
    UsageError
        The model was not trained on generation, or the request is not possible.
    """
    if CONDITIONAL_CELL.id not in model.card.tasks:
        raise UsageError(
            f"the model was not trained on generation; its tasks: {listing(model.card.tasks) or 'none'}"
        )
    if n < 1:
        raise UsageError(
            f"n={n} is not possible; it is the number of cells of each type, at least 1"
        )
    if cell_type is None:
        cell_type = model.known("cell_type")
    wanted = [cell_type] if isinstance(cell_type, str) else list(cell_type)
    if not wanted:
        raise UsageError("give cell_type=…, one type or a list of them; the model remembers none")
    types = [model.check_condition("cell_type", str(t), strict=strict) for t in wanted]
    organism = _organism(model, organism, strict)
    top_k = model.card.top_k if top_k is None else top_k
    sampling = default_sampling(model, temperature=temperature, top_p=top_p, seed=seed)
    labels = np.repeat(np.array(types, dtype=object), n)
    cells = generate_cells(
        model, labels, organism, top_k=top_k, genes=genes,
        sampling=sampling, batch_size=batch_size, engine=engine,
    )  # fmt: skip
    return cells_to_adata(model, cells, labels, organism, sampling)


def default_sampling(
    model: Model, *, temperature: float | None = None, top_p: float | None = None, seed: int = 0
) -> Sampling:
    """Return how to sample: as asked, else as chosen on validation cells in training, else unchanged."""
    chosen = model.card.generation
    return Sampling(
        temperature=chosen.get("temperature", 1.0) if temperature is None else temperature,
        top_p=chosen.get("top_p", 1.0) if top_p is None else top_p,
        seed=seed,
    )


def cells_to_adata(
    model: Model, cells: RankedCells, labels: np.ndarray, organism: str, sampling: Sampling
) -> AnnData:
    """Return generated cells as `generate` does.

    Parameters
    ----------
    model
        What generated them; its inverse gives the expression, which is 0 where it has none.
    cells
        The cells, in the model's genes.
    labels : array of str, shape (n_cells,)
        The types that were asked for.
    organism, sampling
        As they were asked for.
    """
    import scipy.sparse as sp
    from anndata import AnnData

    known = bool(model.card.inverse)
    shape = (len(cells), len(model.vocabulary))
    adata = AnnData(
        X=model.inverse.expression(cells) if known else sp.csr_matrix(shape, dtype=np.float32),
        obs=pd.DataFrame(
            {
                "cell_type": pd.Categorical(labels.astype(str)),
                "organism": pd.Categorical([organism] * len(cells)),
                "cell_sentence": cells.to_text().to_pylist(),
            },
            index=[f"generated-{sampling.seed}-{i}" for i in range(len(cells))],
        ),
        var=pd.DataFrame(
            {"symbol": list(model.vocabulary.symbols)}, index=list(model.vocabulary.words)
        ),
    )
    parameters = {
        "organism": organism, "top_k": int(cells.lengths.max(initial=0)), "temperature": sampling.temperature,
        "top_p": sampling.top_p, "seed": sampling.seed, "expression": "log10(1 + x), from ranks" if known else "none",
    }  # fmt: skip
    record(adata, "generate", model.source, parameters, [])
    return adata


def generate_cells(
    model: Model,
    cell_types: Sequence[str] | np.ndarray,
    organism: str | np.ndarray,
    *,
    top_k: int,
    sampling: Sampling,
    genes: Sequence[str] | None = None,
    batch_size: int | None = None,
    engine: EngineName | Engine = "transformers",
) -> RankedCells:
    """Generate one cell for each entry of `cell_types`, as ranked cells.

    Each cell is asked for in a wording drawn by the seed. Parameters are those of `generate`; `organism` is one
    for all cells or one a cell.

    Returns
    -------
    RankedCells
        Every cell has exactly `top_k` genes.
    """
    columns = np.arange(len(model.vocabulary))
    if genes is not None:
        columns = np.flatnonzero(model.vocabulary.mask(list(genes)))
    constraint = gene_constraint(model, columns, top_k)
    wording = model.prompts.wording(CONDITIONAL_CELL.id)
    prompts = []
    organisms = np.broadcast_to(np.asarray(organism, dtype=object), len(cell_types))
    for i, cell_type in enumerate(cell_types):
        template = wording.pick(generator(sampling.seed, "wording", i))
        values = {"cell_type": str(cell_type), "organism": str(organisms[i])}
        prompts.append(model.tokenizer.encode(CONDITIONAL_CELL.ask(template, values, None, top_k)))
    opened = open_engine(model, engine, batch_size)
    with progress_bar("Generating", len(prompts)) as progress:
        states = opened.generate(prompts, constraint, sampling, progress)
    return RankedCells.from_columns(
        [columns[cast(GeneSentenceState, state).genes] for state in states], model.vocabulary
    )


def gene_constraint(model: Model, columns: np.ndarray, top_k: int) -> GeneSentence:
    """Return the constraint to sentences of exactly `top_k` of the given vocabulary columns."""
    trie = TokenTrie([model.tokenizer.gene_pieces(int(column)) for column in columns])
    return GeneSentence(trie, top_k, model.tokenizer.eos_id)


def _organism(model: Model, organism: str | None, strict: bool) -> str:
    if organism is not None:
        return model.check_condition("organism", organism, strict=strict)
    known = model.known("organism")
    if len(known) != 1:
        raise UsageError(f"give organism=…; the model knows: {listing(known) or 'none'}")
    return known[0]
