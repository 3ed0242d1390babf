"""Errors, atomic files, seeds, progress, configuration: what every room uses."""
