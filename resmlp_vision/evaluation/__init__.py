"""What a classifier, or its features, are worth on a data set."""

from resmlp_vision.evaluation.accuracy import evaluate
from resmlp_vision.evaluation.knn import knn

__all__ = ["evaluate", "knn"]
