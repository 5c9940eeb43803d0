from .evaluate import BadImagesError, EvaluationLoop, TestLoop, ValLoop
from .train import EpochBasedTrainLoop, IterBasedTrainLoop

__all__ = ["BadImagesError", "EpochBasedTrainLoop", "EvaluationLoop", "IterBasedTrainLoop", "TestLoop", "ValLoop"]
