"""Task by data by model: tables with floors, ceilings and intervals.

`evaluate` compares generated cells with held-out real ones, `compare_evaluations` puts several models into one table.
"""

from c2s.evaluate.compare import evaluate
from c2s.evaluate.result import Evaluation, compare_evaluations

__all__ = ["Evaluation", "compare_evaluations", "evaluate"]
