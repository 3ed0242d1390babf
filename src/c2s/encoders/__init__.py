"""Spaces that metrics are measured in."""
