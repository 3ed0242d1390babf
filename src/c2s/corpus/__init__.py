"""Splits, and training examples drawn from cells."""
