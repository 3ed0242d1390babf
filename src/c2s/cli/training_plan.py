"""What `c2s train --dry-run` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: What the parts of the memory are called.
_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimiser": "optimiser",
    "activations": "activations",
    "loss": "loss (logits)",
    "peak": "most at a time",
}


def plan_table(facts: Mapping[str, Any]) -> str:
    """Return the facts of `c2s.training.plan.plan` as text."""
    samples = ", ".join(f"{n:,} {task}" for task, n in sorted(facts["samples"].items()))
    cells = ", ".join(f"{n:,} {split}" for split, n in facts["cells"].items())
    lines = {
        "stage": f"{facts['stage']} from {facts['base']}",
        "cells": cells,
        "samples an epoch": samples,
        "tokens an epoch": f"{facts['tokens']:,}",
        "steps": f"{facts['steps']:,} of {facts['batch_size']:,} items, {facts['epochs']:g} epochs; "
        f"{facts['passes_a_step']:,} passes a step, up to {facts['tokens_a_pass']:,} tokens each",
        "parameters": f"{facts['parameters']:,}, {facts['trainable_parameters']:,} trained",
        "work": f"{facts['flops']:.2e} operations; {facts['device']} does {facts['matrix_rate']:.2e} a second: at most "
        f"{facts['tokens_per_second_at_most']:,.0f} tokens a second",
    }
    width = max(map(len, lines))
    shown = [f"{name:<{width}}  {text}" for name, text in lines.items()]
    return "\n".join(
        [*shown, "", *memory_table(facts["memory"]), *(f"note: {n}" for n in facts["notes"])]
    )


def memory_table(memory: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table of memory: a column for each choice, the recipe's own marked."""
    choices = {"no_checkpointing": "all kept", "gradient_checkpointing": "checkpointing"}
    heads = [
        f"{title}{' *' if memory['chosen'] == name else ''}" for name, title in choices.items()
    ]
    rows = [f"{'memory of a device':<20}{heads[0]:>18}{heads[1]:>18}"]
    for part, title in _PARTS.items():
        values = [in_words(memory[name][part]) for name in choices]
        rows.append(f"{title:<20}{values[0]:>18}{values[1]:>18}")
    rows.append("(* the recipe's; what libraries and kernels take for themselves comes on top)")
    return rows


def in_words(n_bytes: float) -> str:
    """Return bytes as a number with a unit."""
    for unit in ("B", "KiB", "MiB"):
        if n_bytes < 1024:
            return f"{n_bytes:,.0f} {unit}" if unit == "B" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:,.1f} GiB"
