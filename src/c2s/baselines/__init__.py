"""What a model must beat: simple methods that are measured beside it in every table."""

from c2s.baselines.annotation import AnnotationBaseline, KNNBaseline, LogisticRegressionBaseline
from c2s.baselines.celltypist import CellTypistBaseline
from c2s.baselines.copula import GaussianCopula
from c2s.baselines.generation import GenerationBaseline, IndependentResampling, copy_training
from c2s.baselines.heads import EncoderHead, FineTunedHead
from c2s.baselines.scvi_sampling import ScviSampling

__all__ = [
    "AnnotationBaseline",
    "CellTypistBaseline",
    "EncoderHead",
    "FineTunedHead",
    "GaussianCopula",
    "GenerationBaseline",
    "IndependentResampling",
    "KNNBaseline",
    "LogisticRegressionBaseline",
    "ScviSampling",
    "copy_training",
]
