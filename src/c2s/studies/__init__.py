"""Protocols as runnable recipes."""
