"""Tokenizers, and the token ids of genes."""
