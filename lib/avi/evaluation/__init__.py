"""What a trained model and an inference method are worth: evidence, bounds, gaps, units, cost."""

from __future__ import annotations

from avi.evaluation.cost import active_units, count_calls, measure_cost
from avi.evaluation.evidence import Estimate, Evidence, log_evidence, score
from avi.evaluation.gaps import Gaps, Mean, Parts, gaps, split
from avi.evaluation.information import (
    bits_per_dim,
    document_perplexity,
    mutual_information,
    perplexity,
)
from avi.evaluation.search import best_lambda

__all__ = [
    "Estimate", "Evidence", "Gaps", "Mean", "Parts", "active_units", "best_lambda", "bits_per_dim",
    "count_calls", "document_perplexity", "gaps", "log_evidence", "measure_cost",
    "mutual_information", "perplexity", "score", "split",
]  # fmt: skip
