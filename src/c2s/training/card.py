"""The model card of a trained model: the README.md of its directory, written from the facts of the run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from c2s.common.errors import listing
from c2s.common.files import atomic_file
from c2s.models.attention import PromptAttention
from c2s.tasks.pathways import PathwayLine


def licence_of(folder: str | os.PathLike[str] | None) -> str | None:
    """Return the licence that the README.md of a model's folder names, or None where none is named."""
    if folder is None:
        return None
    try:
        text = (Path(folder) / "README.md").read_text("utf-8")
        head = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else None
    except (OSError, UnicodeDecodeError, IndexError, yaml.YAMLError):
        return None
    licence = head.get("license") if isinstance(head, dict) else None
    return licence if isinstance(licence, str) else None


def model_card(
    facts: Mapping[str, Any],
    recipe: Mapping[str, Any],
    manifest: Mapping[str, Any],
    *,
    genes: int,
    top_k: int,
    tasks: Sequence[str],
    pathways: PathwayLine | None = None,
    attention: PromptAttention | None = None,
    licence: str | None = None,
    on_hub: bool = False,
) -> str:
    """Return the text of a model card; the same for the same facts.

    Parameters
    ----------
    facts
        Of the run, as in `run.json`.
    recipe
        The training recipe, as plain values.
    manifest
        Of the corpus that was trained on.
    genes, top_k, tasks, pathways, attention
        Of the model.
    licence
        Of the base, where it is known.
    on_hub
        Whether the base is named by its hub id.
    """
    base, from_weights = str(facts["base"]), recipe["base"]["model"] is not None
    if from_weights and not on_hub:
        base = Path(base).name  # of a folder, where it lies is nobody's business
    head: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["cell2sentence", "single-cell", "c2s-toolkit"],
    }
    if licence is not None:
        head["license"] = licence
    if on_hub:
        head["base_model"] = base
    began = f"the weights of `{base}`" if from_weights else f"random weights (shape `{base}`)"
    stage = {"pretrain": "Pre-trained", "sft": "Fine-tuned"}[facts["stage"]]
    parts = [
        "---\n" + yaml.safe_dump(head, sort_keys=False) + "---",
        "# A language model of cells",
        f"{stage} from {began} with c2s-toolkit {facts['versions']['c2s-toolkit']}: {facts['parameters']:,} weights, "
        f"{genes:,} genes, cells of up to {top_k:,} genes. It reads and writes cells as cell sentences, the names of "
        "their genes in descending order of expression.",
        "## How to load it",
        '```python\nimport c2s\n\nmodel = c2s.load_model("FOLDER")\nc2s.tl.annotate(adata, model)\n```',
        "## Tasks",
        _tasks(tasks, pathways, manifest.get("pathways")),
        "## Data",
        _data(manifest),
        "## Training",
        _training(
            facts, recipe["optimisation"], recipe["lora"], recipe["augment"], attention or PromptAttention()
        ),
        "## Measured on validation samples",
        _measured(facts),
        "## Licence",
        f"The base is under `{licence}`." if licence else
        "That of the base is not known here; that of the data neither." if from_weights else
        "The weights began at random; that of the data is not known here.",
        "## Limits",
        limits_of(manifest),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _tasks(
    tasks: Sequence[str], pathways: PathwayLine | None, drawn: Mapping[str, Any] | None
) -> str:
    """Return the tasks, and which of them name pathways before their answer; `drawn` are those of the corpus."""
    lines = [f"- `{task}`" for task in tasks]
    if pathways is not None:
        named = listing([f"`{task}`" for task in pathways.tasks])
        source = "known to its base"
        if drawn is not None and drawn["names"] == pathways.names:
            source = f"gene sets of {Path(drawn['path']).name}, SHA-256 `{drawn['sha256']}`"
        lines.append(
            f"\nBefore the answers of {named} it names {pathways.number} of {len(pathways.names):,} pathways "
            f"({source})."
        )
    return "\n".join(lines)


def sources_of(manifest: Mapping[str, Any]) -> str:
    """Return a table of the sources with their hashes, and the split."""
    rows = ["| source | cells | genes | SHA-256 |", "| --- | ---: | ---: | --- |"]
    for source in manifest["sources"]:
        # The name of a file, never where it lay.
        name = Path(source["path"]).name
        rows.append(
            f"| {name} | {source['cells']:,} | {source['genes']:,} | `{source['sha256']}` |"
        )
    cells = ", ".join(f"{n:,} in {split}" for split, n in manifest["cells"].items())
    return "\n".join(rows) + f"\n\nCells: {cells}. Corpus `{manifest['digest']}`."


def _data(manifest: Mapping[str, Any]) -> str:
    """Return the sources with their hashes, the split and the samples."""
    samples = ", ".join(
        f"{n:,} of `{task}`" for task, n in sorted(manifest["samples"]["train"].items())
    )
    tokens = sum(manifest["tokens"]["train"].values())
    return f"{sources_of(manifest)} Training samples of an epoch: {samples}; {tokens:,} tokens."


def _training(
    facts: Mapping[str, Any],
    settings: Mapping[str, Any],
    lora: Mapping[str, Any] | None,
    augment: Mapping[str, Any] | None,
    attention: PromptAttention,
) -> str:
    """Return how long and how fast, and what is unusual."""
    rates = f"learning rate {settings['learning_rate']:g}"
    if settings["optimizer"] == "muon":
        rates += f" (Muon {settings['muon_learning_rate']:g})"
    lines = [
        f"- {facts['steps']:,} steps of {settings['batch_size']:,} items: {facts['samples']:,} samples, "
        f"{facts['tokens']:,} tokens",
        f"- {settings['optimizer']}, {rates}, {settings['schedule']}, weight decay {settings['weight_decay']:g}, "
        f"{settings['precision']}",
        f"- seed {facts['seed']}, {facts['processes']} process{'es' if facts['processes'] > 1 else ''}",
    ]
    if not attention.is_causal:
        lines.append(
            f"- prompts are read with attention of kind `{attention.kind}` (c2s.json), which c2s.load_model sets up "
            "and transformers alone does not"
        )
    if augment is not None:
        width = "fully" if augment["window"] is None else f"in windows of {augment['window']:,}"
        lines.append(f"- genes of {augment['share']:.0%} of the samples were permuted, {width}")
    if lora is not None:
        lines.append(
            f"- {facts['trained_parameters']:,} weights were trained: an adapter (LoRA, rank {lora['rank']}, alpha "
            f"{lora['alpha']:g}), {'merged into the base' if lora['keep'] == 'merged' else 'kept beside its base'}"
        )
    if facts["best_step"] is not None:
        lines.append(
            f"- the weights are those of step {facts['best_step']:,}, the best of those measured"
        )
    return "\n".join(lines)


def _measured(facts: Mapping[str, Any]) -> str:
    """Return a table of what was measured."""
    metrics: Mapping[str, Mapping[str, float]] = facts["metrics"]
    if not metrics and facts.get("divided"):
        told = ", ".join(f"`{k}` {v:.4f}" for k, v in facts["validation"].items())
        return (
            "Nothing was measured at the end, because FSDP divided the weights among processes"
            + (f"; in training, on validation samples, without intervals: {told}." if told else ".")
        )
    if not metrics:
        return "Nothing was measured: there were no validation samples."
    rows = ["| | value | 95 % interval | samples |", "| --- | ---: | ---: | ---: |"]
    for name, found in metrics.items():
        interval = f"{found['low']:.4f} to {found['high']:.4f}"
        rows.append(f"| `{name}` | {found['value']:.4f} | {interval} | {found['n']:,} |")
    note = (
        "Losses are in nats a token. Intervals come from resampling samples: they tell of other samples of the same "
        "donors, not of other donors."
    )
    if any(name.startswith("accuracy") for name in metrics):
        note += " Accuracy is that of the most probable of the labels that were trained on."
    return "\n".join(rows) + "\n\n" + note


def limits_of(manifest: Mapping[str, Any]) -> str:
    """Return what the model is not made for."""
    lines = [
        "- It knows the genes, cell types and tissues of its training data; others are answered with what is nearest "
        "to it in words, not in biology.",
        "- What it generates are samples of what it learned, no measurements.",
        "- It is for research, and for no medical decision.",
        *(f"- Of the data: {note}" for note in manifest.get("notes", [])),
    ]
    studies = [s for source in manifest["sources"] for s in source.get("studies", [])]
    if studies:
        lines.append(f"- All cells are of {listing(sorted(set(studies)))}.")
    return "\n".join(lines)


def write_card(folder: Path, text: str) -> None:
    """Write a model card into a model directory."""
    with atomic_file(folder / "README.md") as path:
        path.write_text(text, "utf-8")
