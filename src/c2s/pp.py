"""Prepare cells: normalise, rank, write as sentences, and back (`c2s.pp`)."""

from c2s.cells.inverse import ParsedSentences, RankExpressionModel, parse_sentences
from c2s.cells.preprocess import PreprocessConfig, normalize, quality_control
from c2s.cells.ranked import RankedCells
from c2s.cells.sentences import cell_sentences, fit_inverse
from c2s.cells.vocabulary import GeneVocabulary

__all__ = [
    "GeneVocabulary",
    "ParsedSentences",
    "PreprocessConfig",
    "RankExpressionModel",
    "RankedCells",
    "cell_sentences",
    "fit_inverse",
    "normalize",
    "parse_sentences",
    "quality_control",
]
