"""Ask a model about cells (`c2s.tl`)."""

from c2s.analysis.annotate import annotate
from c2s.analysis.calibrate import calibrate
from c2s.analysis.deletion import DeletionTest, deletion_test
from c2s.analysis.embed import embed
from c2s.analysis.encode import encode
from c2s.analysis.explain import explain, top_genes
from c2s.analysis.generate import generate

__all__ = [
    "DeletionTest",
    "annotate",
    "calibrate",
    "deletion_test",
    "embed",
    "encode",
    "explain",
    "generate",
    "top_genes",
]
