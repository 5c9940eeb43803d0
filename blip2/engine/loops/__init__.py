from .evaluate import BadImagesError, EvaluationLoop, TestLoop, ValLoop
from .retrieval import RetrievalLoop, RetrievalTestLoop, RetrievalValLoop
from .train import EpochBasedTrainLoop, IterBasedTrainLoop

__all__ = [
    "BadImagesError",
    "EpochBasedTrainLoop",
    "EvaluationLoop",
    "IterBasedTrainLoop",
    "RetrievalLoop",
    "RetrievalTestLoop",
    "RetrievalValLoop",
    "TestLoop",
    "ValLoop",
]
