"""Ask a model about cells (`c2s.tl`)."""

from c2s.analysis.annotate import annotate
from c2s.analysis.calibrate import calibrate
from c2s.analysis.deletion import DeletionTest, deletion_test
from c2s.analysis.embed import embed
from c2s.analysis.encode import encode
from c2s.analysis.explain import explain, top_genes
from c2s.analysis.gene_sets import enumerate_gene_set, name_gene_set
from c2s.analysis.generate import generate
from c2s.analysis.samples import annotate_samples
from c2s.knowledge.ontology import read_ontology, roll_up

__all__ = [
    "DeletionTest",
    "annotate",
    "annotate_samples",
    "calibrate",
    "deletion_test",
    "embed",
    "encode",
    "enumerate_gene_set",
    "explain",
    "generate",
    "name_gene_set",
    "read_ontology",
    "roll_up",
    "top_genes",
]
