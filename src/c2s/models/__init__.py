"""Presets and the model directory."""
