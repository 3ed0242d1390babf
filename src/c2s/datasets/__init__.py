"""Real cells that come with the package or its dependencies; nothing is downloaded."""

from c2s.datasets.packaged import pancreas, pbmc68k

__all__ = ["pancreas", "pbmc68k"]
