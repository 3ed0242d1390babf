"""Generated cells: by type or tissue, of no condition, or as one sample; sentences and expression (SPEC §4.1, 18)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from c2s.analysis.cells import record
from c2s.analysis.generation_task import choose_task, generating_tasks, writes_every_type
from c2s.analysis.requests import GenerationRequest, parse_generation_request
from c2s.analysis.write_cells import AskedCells, gene_choice, most_that_fit, write_cells
from c2s.cells.ranked import RankedCells
from c2s.common.errors import UsageError, counted, listing, warn
from c2s.decoding.answers import GeneChoice
from c2s.decoding.engine import Engine
from c2s.decoding.opening import EngineName, engine_name
from c2s.decoding.prompts import as_known
from c2s.decoding.sampling import Sampling
from c2s.models.directory import Model
from c2s.tasks.registry import TASKS
from c2s.tasks.single_cell import CONDITIONAL_CELL

if TYPE_CHECKING:
    from anndata import AnnData


def generate(
    model: Model,
    cell_type: str | Sequence[str] | None = None,
    n: int | None = None,
    *,
    tissue: str | None = None,
    organism: str | None = None,
    prompt: str | None = None,
    per_sample: int | None = None,
    top_k: int | None = None,
    genes: Sequence[str] | None = None,
    forbid: str | Sequence[str] | None = None,
    require: str | Sequence[str] | None = None,
    temperature: float | tuple[float, float] | None = None,
    top_p: float | None = None,
    batch_size: int | None = None,
    strict: bool = False,
    seed: int = 0,
    engine: EngineName | Engine = "transformers",
    **conditions: str,
) -> AnnData:
    """Generate cells.

    The task follows from what is given: cells of a type, of a tissue, of nothing but an organism, or several cells
    of one sample in one answer. Every cell consists of genes of the model's vocabulary, none twice, exactly `top_k` of
    them: the model chooses among what keeps this possible, token by token.

    Parameters
    ----------
    model
        Trained on a task that writes cells; its card says which.
    cell_type
        One type, or several. With no condition at all, a model that was trained on cells without conditions
        ("sc_lm") writes such cells, any other one cells of every type that it knows.
    n
        Cells of each type, or in all where there are no types; by default 1.
    tissue
        Where the cells come from. A model that was not trained on a type in a tissue gets both in words, with a
        warning; `strict` refuses.
    organism
        By default the only one that the model knows.
    prompt
        A request in English instead of conditions, as "generate 7 human cells from kidney tissue". One that is not
        understood goes to the model as it is, with a warning, and the answer is a cell all the same; `strict` refuses.
    per_sample
        Cells that are written in one answer, as those of one sample. By default 1 where the task writes one cell,
        else as many as were asked for, in equal shares where they do not fit into the model's context.
    top_k
        Genes of each cell; by default as the request says, else as many as the model was trained on.
    genes
        A panel: only these genes may be written. A released checkpoint, which has no vocabulary, needs it.
    forbid
        A gene or several that must not be written.
    require
        A gene or several that every cell must have. The model puts them where it likes; those that are missing when no
        other place is left come last.
    temperature
        Of sampling; by default what was chosen on validation cells when the model was trained, else 1. 0 takes
        the most probable gene at each step; cells of a type then differ only by the wording of their prompt. A pair
        is that of the first and of the last gene, with equal steps between.
    top_p
        Sample from the most probable tokens that together reach this probability; by default as for
        `temperature`.
    batch_size
        Answers in a batch; by default what fits the machine.
    strict
        Refuse what the model never saw; otherwise it is named in a warning and tried.
    seed
        Decides every draw.
    engine
        What runs the model: "transformers", "vllm", or an open engine. The cells are the same, up to rounding.
    **conditions
        Other conditions of the model's tasks, such as `abstract="…"`.

    Returns
    -------
    AnnData
        `X`: reconstructed expression `log10(1 + ·)`, CSR float32 (SPEC §3); `obs`: each condition that was given
        (`cell_type`, `tissue`, `organism`), `cell_sentence`, `prompt` (what the model was given), `sample` where
        an answer is a sample of cells, and `pathways` where the model names them before a cell; `var`: the model's
        genes as written in sentences, and `symbol` in original case; `uns["c2s"]["generate"]`: the request as asked and
        as understood, seed, model and versions.

    Raises
    ------
    UsageError
        The model was not trained on such a task, or the request is not possible.
    InputError
        The model knows none of the genes of a panel.
    """
    request, given_organism = None, organism
    if prompt is not None:
        if cell_type is not None or tissue is not None or conditions:
            raise UsageError("give either a prompt or conditions, not both")
        request = read_request(prompt, model, n, organism, top_k, strict=strict)
        n, organism, cell_type = request.n, request.organism, request.cell_type
        tissue, top_k = request.tissue, request.top_k
        if request.unknown and per_sample is not None:
            raise UsageError(
                "what is not understood is answered with single cells; leave out per_sample=…"
            )
        if request.together and not request.unknown:
            per_sample = per_sample or n
    n = 1 if n is None else n
    _check_numbers(n, per_sample)
    generating_tasks(model)  # says so if there is none, before anything else is asked for
    panel = genes
    if model.any_gene:
        if genes is None:
            raise UsageError(
                "a released checkpoint takes any gene symbol; say which it may write: genes=…, such as those of "
                "your data"
            )
        model, panel = model.with_genes(genes), None
    choice = gene_choice(model, top_k, genes=panel, forbid=forbid, require=require)
    sampling = default_sampling(model, temperature=temperature, top_p=top_p, seed=seed)
    if request is not None and request.unknown:
        # Of a text that is not understood only what was given apart from it is known.
        known = {}
        if given_organism is not None:
            known["organism"] = np.full(n, _organism(model, given_organism, strict), dtype=object)
        asked = AskedCells(n, None, known, request.text)
    else:
        given = {"tissue": tissue, **conditions}
        asked = _asked(model, cell_type, given, organism, n, per_sample, choice, strict)
    written = write_cells(model, asked, choice, sampling, batch_size, engine)
    adata = _to_adata(model, written.cells, asked.fields, sampling)
    adata.obs["prompt"] = pd.Categorical(written.prompts)
    if written.pathways is not None:
        adata.obs["pathways"] = pd.Categorical(written.pathways)
    if asked.task is not None and asked.task.kind == "multi":
        adata.obs["sample"] = pd.Categorical([f"{sampling.seed}-{i}" for i in asked.sample])
    understood = str(request) if request is not None and not request.unknown else None
    adata.uns["c2s"]["generate"]["parameters"].update(_plain({
        "task": asked.task.id if asked.task else "as it is", "n": n, "per_sample": asked.per_sample,
        "request": prompt, "understood": understood, "genes": panel, "forbid": forbid, "require": require,
        "engine": engine_name(engine),
    }))  # fmt: skip
    return adata


def read_request(
    prompt: str,
    model: Model,
    n: int | None = None,
    organism: str | None = None,
    top_k: int | None = None,
    *,
    strict: bool = False,
) -> GenerationRequest:
    """Return a request as it is understood, with what was given beside it; one with unknown words is warned of.

    Raises
    ------
    UsageError
        The request says something else than `n`, `organism` or `top_k`, or it is `strict` and has unknown words.
    """
    request = parse_generation_request(prompt, model).beside(n, organism, top_k)
    if request.unknown:
        if strict:
            raise UsageError(request.why_unknown)
        genes = f" of {request.top_k:,} genes" if request.top_k else ""
        warn(
            f"{request.why_unknown}; the request goes to the model as it is, for "
            f"{counted(request.n or 1, 'cell')}{genes}"
        )
    return request


def _check_numbers(n: int, per_sample: int | None) -> None:
    if n < 1:
        raise UsageError(
            f"n={n} is not possible; it is the number of cells of each type, at least 1"
        )
    if per_sample is not None and per_sample < 1:
        raise UsageError(f"per_sample={per_sample} is not possible; it is at least 1")


def _asked(
    model: Model,
    cell_type: str | Sequence[str] | None,
    given: Mapping[str, str | None],
    organism: str | None,
    n: int,
    per_sample: int | None,
    choice: GeneChoice,
    strict: bool,
) -> AskedCells:
    """Return the cells of given conditions, with the task that writes them."""
    texts = _known_texts(model, given, strict)
    together = per_sample is not None and per_sample > 1
    if cell_type is None and not texts and writes_every_type(model, together=together):
        cell_type = model.known("cell_type")
    types = None
    if cell_type is not None:
        types = [cell_type] if isinstance(cell_type, str) else [str(t) for t in cell_type]
        if not types:
            raise UsageError("give cell_type=…, one type or a list of them")
    names = [*texts, *(["cell_type"] if types else [])]
    task = choose_task(model, names, together=together, strict=strict)
    types = types and [model.check_condition("cell_type", t, strict=strict) for t in types]
    texts["organism"] = _organism(model, organism, strict)
    total = n * len(types or [""])
    fields = {name: np.full(total, text, dtype=object) for name, text in texts.items()}
    if types:
        fields = {"cell_type": np.repeat(np.array(types, dtype=object), n), **fields}
    asked = AskedCells(total, task, fields)
    if task.kind == "single":
        return asked
    if per_sample is None:
        n_answers = -(-total // most_that_fit(model, asked, choice))
        per_sample = -(-total // n_answers)
    return replace(asked, per_sample=min(per_sample, total))


def _known_texts(model: Model, given: Mapping[str, str | None], strict: bool) -> dict[str, str]:
    """Return the conditions that were given, as the model knows them; a name that is no condition is refused."""
    conditions = {name for task in TASKS.values() for name in task.conditions} | {*model.card.conditions}  # fmt: skip
    conditions -= {"cell_types", "gene_set"}
    for name in given:
        if name not in conditions:
            raise UsageError(
                f"{name!r} is neither an argument of generate nor a condition; "
                f"conditions are: {listing(sorted(conditions))}"
            )
    texts = {name: str(text) for name, text in given.items() if text is not None}
    if strict:
        for name in texts.keys() & model.card.conditions.keys():
            model.check_condition(name, texts[name], strict=True)
    return {name: as_known(model, name, text) for name, text in texts.items()}


def default_sampling(
    model: Model,
    *,
    temperature: float | tuple[float, float] | None = None,
    top_p: float | None = None,
    seed: int = 0,
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
    organisms = np.full(len(cells), organism, dtype=object)
    return _to_adata(model, cells, {"cell_type": labels, "organism": organisms}, sampling)


def _to_adata(
    model: Model, cells: RankedCells, fields: Mapping[str, np.ndarray], sampling: Sampling
) -> AnnData:
    import scipy.sparse as sp
    from anndata import AnnData

    known = bool(model.card.inverse)
    shape = (len(cells), len(model.vocabulary))
    columns = {name: pd.Categorical(texts.astype(str)) for name, texts in fields.items()}
    adata = AnnData(
        X=model.inverse.expression(cells) if known else sp.csr_matrix(shape, dtype=np.float32),
        obs=pd.DataFrame(
            {**columns, "cell_sentence": cells.to_text().to_pylist()},
            index=[f"generated-{sampling.seed}-{i}" for i in range(len(cells))],
        ),
        var=pd.DataFrame(
            {"symbol": list(model.vocabulary.symbols)}, index=list(model.vocabulary.words)
        ),
    )
    same = {k: str(v[0]) for k, v in fields.items() if k != "cell_type" and len(v)}
    parameters = _plain({
        **same, "top_k": int(cells.lengths.max(initial=0)), "temperature": sampling.temperature,
        "top_p": sampling.top_p, "seed": sampling.seed, "expression": "log10(1 + x), from ranks" if known else "none",
    })  # fmt: skip
    record(adata, "generate", model.source, parameters, {})
    return adata


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given, in a form that a file can hold."""
    given = {
        k: v.item() if isinstance(v, np.generic) else v
        for k, v in parameters.items()
        if v is not None
    }
    return {k: v if isinstance(v, (str, int, float)) else list(v) for k, v in given.items()}


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
    n = len(cell_types)
    fields = {
        "cell_type": np.asarray(cell_types, dtype=object),
        "organism": np.broadcast_to(np.asarray(organism, dtype=object), n),
    }
    asked = AskedCells(n, CONDITIONAL_CELL, fields)
    choice = gene_choice(model, top_k, genes=genes)
    return write_cells(model, asked, choice, sampling, batch_size, engine).cells


def _organism(model: Model, organism: str | None, strict: bool) -> str:
    if organism is not None:
        return model.check_condition("organism", organism, strict=strict)
    known = model.known("organism")
    if len(known) != 1:
        raise UsageError(f"give organism=…; the model knows: {listing(known) or 'none'}")
    return known[0]
