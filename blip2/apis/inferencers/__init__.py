"""Inferencers: from pictures to results in one call, one class a task."""

from pathlib import Path
from typing import Any

from mmengine.model import BaseModel

from blip2.apis.metafile import model_entries
from blip2.utils.pictures import is_url
from blip2.utils.suggest import did_you_mean

from .base import BaseInferencer, Prediction
from .chat import Chat, Reply
from .feature_cache import FeatureCacheError
from .feature_extractor import FeatureExtractor
from .gallery import GalleryError
from .image_caption import ImageCaptionInferencer
from .image_to_text_retrieval import ImageToTextRetrievalInferencer
from .inputs import BadInputsError
from .retrieval import BadFeaturesError
from .text_to_image_retrieval import TextToImageRetrievalInferencer
from .visual_question_answering import VisualQuestionAnsweringInferencer

__all__ = [
    "BadFeaturesError",
    "BadInputsError",
    "BaseInferencer",
    "Chat",
    "FeatureCacheError",
    "FeatureExtractor",
    "GalleryError",
    "ImageCaptionInferencer",
    "ImageToTextRetrievalInferencer",
    "Prediction",
    "Reply",
    "TextToImageRetrievalInferencer",
    "VisualQuestionAnsweringInferencer",
    "inferencer_for",
]

# The tasks as metafiles name them, and the models by which an instance without a metafile entry is known.
_BY_TASK: dict[str, type[BaseInferencer]] = {
    kind.task: kind
    for kind in (
        ImageCaptionInferencer,
        VisualQuestionAnsweringInferencer,
        ImageToTextRetrievalInferencer,
        TextToImageRetrievalInferencer,
    )
}
_TASKS_OF_MODEL = {
    "Blip2Caption": ("Image Caption",),
    "Blip2VQA": ("Visual Question Answering",),
    "Blip2Retrieval": ("Image-To-Text Retrieval", "Text-To-Image Retrieval"),
}


def inferencer_for(model: str | BaseModel | type[BaseModel], query: Any = None) -> type[BaseInferencer]:
    """The inferencer class for a task ('Image Caption'), a model name, a model or its class.

    Args:
        model: what the inferencer is wanted for.
        query: what it will be asked. A model that finds texts for pictures and pictures for texts gets the inferencer
            for texts if this is a text (or a list of them) and no picture's path; the one for pictures else.

    Raises:
        ValueError: no such task or model name, or a task that has no inferencer.
    """
    if isinstance(model, str) and model in _BY_TASK:
        return _BY_TASK[model]
    found = [_BY_TASK[task] for task in _tasks_of(model) if task in _BY_TASK]
    if not found:
        raise ValueError(f"no inferencer for the tasks of {model!r}: {', '.join(_tasks_of(model)) or 'none named'}")
    if TextToImageRetrievalInferencer in found and _is_text(query):
        return TextToImageRetrievalInferencer
    if query is not None and len(found) > 1:
        found = [kind for kind in found if kind is not TextToImageRetrievalInferencer]
    return found[0]


def _tasks_of(model: str | BaseModel | type[BaseModel]) -> tuple[str, ...]:
    if not isinstance(model, str):
        kind = model if isinstance(model, type) else type(model)
        for parent in kind.__mro__:
            if parent.__name__ in _TASKS_OF_MODEL:
                return _TASKS_OF_MODEL[parent.__name__]
        raise ValueError(f"no inferencer is known for {kind.__name__}; known: {', '.join(_TASKS_OF_MODEL)}")
    entries = model_entries()
    if model not in entries:
        raise ValueError(
            f"{model!r} is neither a task ({', '.join(_BY_TASK)}) nor a model name.{did_you_mean(model, entries)}"
        )
    return entries[model].tasks


def _is_text(query: Any) -> bool:
    if isinstance(query, list | tuple) and query:
        query = query[0]
    if not isinstance(query, str) or is_url(query):
        return False
    try:
        return not Path(query).exists()
    except OSError:  # too long for a path
        return True
