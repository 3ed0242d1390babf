"""Ask a model about cells (`c2s.tl`)."""

from c2s.analysis.annotate import annotate
from c2s.analysis.calibrate import calibrate
from c2s.analysis.embed import embed
from c2s.analysis.encode import encode
from c2s.analysis.generate import generate

__all__ = ["annotate", "calibrate", "embed", "encode", "generate"]
