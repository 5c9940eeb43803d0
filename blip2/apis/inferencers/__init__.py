"""Inferencers: from pictures to results in one call, one class a task."""

from mmengine.model import BaseModel

from blip2.apis.metafile import model_entries
from blip2.utils.suggest import did_you_mean

from .base import BaseInferencer, Prediction
from .chat import Chat, Reply
from .image_caption import ImageCaptionInferencer
from .inputs import BadInputsError
from .visual_question_answering import VisualQuestionAnsweringInferencer

__all__ = [
    "BadInputsError",
    "BaseInferencer",
    "Chat",
    "ImageCaptionInferencer",
    "Prediction",
    "Reply",
    "VisualQuestionAnsweringInferencer",
    "inferencer_for",
]

# The tasks as metafiles name them, and the models by which an instance without a metafile entry is known.
_BY_TASK: dict[str, type[BaseInferencer]] = {
    "Image Caption": ImageCaptionInferencer,
    "Visual Question Answering": VisualQuestionAnsweringInferencer,
}
_TASK_OF_MODEL = {"Blip2Caption": "Image Caption", "Blip2VQA": "Visual Question Answering"}


def inferencer_for(model: str | BaseModel | type[BaseModel]) -> type[BaseInferencer]:
    """The inferencer class for a task ('Image Caption'), a model name, a model or its class.

    Raises:
        ValueError: no such task or model name, or a task that has no inferencer.
    """
    if not isinstance(model, str):
        kind = model if isinstance(model, type) else type(model)
        for parent in kind.__mro__:
            if parent.__name__ in _TASK_OF_MODEL:
                return _BY_TASK[_TASK_OF_MODEL[parent.__name__]]
        raise ValueError(f"no inferencer is known for {kind.__name__}; known: {', '.join(_TASK_OF_MODEL)}")
    if model in _BY_TASK:
        return _BY_TASK[model]
    entries = model_entries()
    if model not in entries:
        raise ValueError(
            f"{model!r} is neither a task ({', '.join(_BY_TASK)}) nor a model name.{did_you_mean(model, entries)}"
        )
    for task in entries[model].tasks:
        if task in _BY_TASK:
            return _BY_TASK[task]
    raise ValueError(f"no inferencer for the tasks of {model!r}: {', '.join(entries[model].tasks) or 'none named'}")
