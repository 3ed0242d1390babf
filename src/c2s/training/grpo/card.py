"""The model card of an aligned model: the README.md of its directory, written from the facts of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml

from c2s.training.card import limits_of, sources_of
from c2s.training.grpo.signs import measures_of


def alignment_card(
    facts: Mapping[str, Any],
    recipe: Mapping[str, Any],
    manifest: Mapping[str, Any],
    *,
    genes: int,
    top_k: int,
    tasks: Sequence[str],
    licence: str | None = None,
) -> str:
    """Return the text of the card; the same for the same facts. Parameters are those of `model_card`."""
    head: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["cell2sentence", "single-cell", "c2s-toolkit", "grpo"],
    }
    if licence is not None:
        head["license"] = licence
    base = run_name(facts["base"])
    # Of the corpus only the cells are looked at.
    notes = [n for n in manifest.get("notes", []) if not n.startswith("there is no sample")]
    parts = [
        "---\n" + yaml.safe_dump(head, sort_keys=False) + "---",
        "# A language model of cells, aligned",
        f"`{base}` aligned on the task `{facts['task']}` with c2s-toolkit {facts['versions']['c2s-toolkit']}, by group "
        f"relative policy optimisation (SPEC §7): {facts['parameters']:,} weights, {genes:,} genes, cells of up to "
        f"{top_k:,} genes.",
        "## How to load it",
        '```python\nimport c2s\n\nmodel = c2s.load_model("FOLDER")\n```',
        "## Tasks",
        "\n".join(f"- `{task}`" for task in tasks),
        "## Data",
        sources_of(manifest),
        "## Rewards",
        _rewards(facts, recipe),
        "## Training",
        _training(facts, recipe),
        "## Measured on validation cells, before and after",
        _measured(facts["before"], facts["after"], facts["rewards"]),
        "## Licence",
        f"The base is under `{licence}`." if licence else
        "That of the base is not known here; that of the data neither.",
        "## Limits",
        limits_of({**manifest, "notes": notes})
        + "\n- A reward is not what is wanted, only what can be computed: look at the measures that were not rewarded.",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _rewards(facts: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """Return a line a reward, with the fields that were given."""
    lines = []
    for (name, weight), reward in zip(facts["rewards"].items(), recipe["rewards"], strict=True):
        given = {
            k: v
            for k, v in reward.items()
            if k not in ("name", "weight") and v not in (None, [], "")
        }
        shown = "".join(f"; {field}: {_plain(value)}" for field, value in given.items())
        lines.append(f"- `{name}`, weight {weight:g}{shown}")
    return "\n".join(lines)


def _plain(value: Any) -> str:
    """Return a field of a reward as text, without where its files lie, which is nobody's business."""
    if isinstance(value, str):
        return run_name(value)
    return ", ".join(map(str, value)) if isinstance(value, Sequence) else str(value)


def run_name(path: Any) -> str:
    """Return the last part of a path or of a hub id's, of a run's model that of the run; anything else as it is.

    Examples
    --------
    >>> run_name("runs/generation/model"), run_name("org/name"), run_name(3)
    ('generation', 'name', '3')
    """
    shown = PurePath(str(path))
    # A run's model lies in a folder of that name, which says nothing.
    return shown.parent.name if shown.name == "model" and shown.parent.name else shown.name


def _training(facts: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    policy, settings = recipe["policy"], recipe["optimisation"]
    lines = [
        f"- {facts['steps']:,} steps of {settings['batch_size']:,} prompts with {policy['group']} answers each, at "
        f"temperature {policy['temperature']:g}, {'constrained' if policy['constrained'] else 'unconstrained'}",
        f"- loss `{policy['loss']}`, ε {policy['epsilon']:g}, β {policy['beta']:g}"
        + (f", β of allowed tokens {policy['beta_allowed']:g}" if policy["beta_allowed"] else "")
        + (f", entropy {policy['entropy']:g}" if policy["entropy"] else "")
        + f", {policy['iterations']} iteration"
        f"{'s' if policy['iterations'] > 1 else ''}; {settings['optimizer']}, learning rate "
        f"{settings['learning_rate']:g}, {settings['schedule']}, {settings['precision']}",
        f"- seed {facts['seed']}, {facts['processes']} process{'es' if facts['processes'] > 1 else ''}",
    ]
    if recipe["lora"] is not None:
        lines.append(f"- {facts['trained_parameters']:,} weights were trained: an adapter (LoRA)")
    return "\n".join(lines)


def _measured(
    before: Mapping[str, float], after: Mapping[str, float], rewards: Mapping[str, float]
) -> str:
    """Return a table of what was measured on validation cells."""
    if not after:
        return "Nothing was measured: there were no validation cells."
    paid = measures_of(rewards)
    rows = ["| | before | after | |", "| --- | ---: | ---: | --- |"]
    for name in after:
        rewarded = "rewarded on training cells" if name in paid else ""
        was = before.get(name, float("nan"))
        rows.append(f"| `{name}` | {was:.4f} | {after[name]:.4f} | {rewarded} |")
    return "\n".join(rows) + "\n\nOne draw of cells each, without intervals."
