"""Cells in: readers, checks, gene identity, ranking, the inverse model."""
