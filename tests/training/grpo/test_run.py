"""Runs of alignment, from a recipe to a model directory (SPEC §7)."""

import json

from c2s.training.grpo.run import run_alignment


def test_a_run_leaves_a_model_and_says_what_changed(recipe, tmp_path):
    facts = run_alignment(recipe(), tmp_path, tmp_path / "run")
    print(json.dumps(facts, indent=1))
    print((tmp_path / "run" / "log.jsonl").read_text())
    print((tmp_path / "run" / "model" / "README.md").read_text())
    assert 0
