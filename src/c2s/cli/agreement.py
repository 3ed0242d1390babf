"""How well answers agree with labels that are known, for a person and for a program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def agreement(
    truth: pd.Series,
    answers: pd.Series,
    confidence: pd.Series,
    labels: Sequence[str],
    spelled: Callable[[str], str] = str,
) -> tuple[dict[str, float], str]:
    """Return accuracy, macro F1 and the expected calibration error, and a line that says them.

    Accuracy and F1 are over all cells with a true label; a cell without an answer, or with one that is no label
    ("unknown", a term higher up), counts as wrong. The calibration error is over the cells that got one of the
    `labels`, for which the confidence is its probability; it is left out where there are none. `spelled` returns a true
    label as the answers spell it; by default they are compared letter by letter.
    """
    from c2s.metrics import accuracy, expected_calibration_error, macro_f1

    known = truth.notna().to_numpy()
    if not known.any():
        return {}, f"obs[{truth.name!r}] has no label to compare with"
    written = truth.astype(object)[known].astype(str)
    true = written.map({text: spelled(text) for text in written.unique()}).to_numpy()
    # A text that no label is, so that no missing answer is right by chance.
    said = answers.astype(object).fillna("\0no answer")[known].astype(str).to_numpy()
    facts = {"accuracy": accuracy(true, said), "macro_f1": macro_f1(true, said)}
    text = f"agrees with obs[{truth.name!r}] for {facts['accuracy']:.1%} of the cells; macro F1 {facts['macro_f1']:.3f}"
    labelled = answers.isin(list(labels)).to_numpy()[known]
    if labelled.any():
        sure = confidence.to_numpy()[known][labelled].clip(0, 1)
        ece = expected_calibration_error(true[labelled], said[labelled], sure)
        facts["expected_calibration_error"] = ece
        text += f", expected calibration error {ece:.3f}"
    return facts, text
