"""Ask a model about cells (`c2s.tl`)."""

from c2s.analysis.annotate import annotate
from c2s.analysis.calibrate import calibrate
from c2s.analysis.embed import embed
from c2s.analysis.encode import encode
from c2s.analysis.generate import generate
from c2s.analysis.streaming import annotate_file, embed_file

__all__ = ["annotate", "annotate_file", "calibrate", "embed", "embed_file", "encode", "generate"]
