"""The verbs, each on an AnnData and a model."""
