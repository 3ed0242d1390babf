"""The command `c2s`."""
