"""What a model must beat: simple methods that are measured beside it in every table."""

from c2s.baselines.annotation import AnnotationBaseline, KNNBaseline, LogisticRegressionBaseline
from c2s.baselines.generation import IndependentResampling, copy_training

__all__ = [
    "AnnotationBaseline",
    "IndependentResampling",
    "KNNBaseline",
    "LogisticRegressionBaseline",
    "copy_training",
]
