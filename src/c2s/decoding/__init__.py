"""Engines that ask a model."""
