"""What users call: configs, models by name, and inferencers. Each name is imported when it is first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blip2.apis.config import ConfigError, load_config
    from blip2.apis.explain import query_attention, word_maps
    from blip2.apis.hub import clear_cache, get_model, inference_model, init_model, list_models
    from blip2.apis.inferencers import (
        Chat,
        FeatureExtractor,
        ImageCaptionInferencer,
        ImageToTextRetrievalInferencer,
        TextToImageRetrievalInferencer,
        VisualQuestionAnsweringInferencer,
    )
    from blip2.apis.metafile import ModelEntry, model_entries

__all__ = [
    "Chat",
    "ConfigError",
    "FeatureExtractor",
    "ImageCaptionInferencer",
    "ImageToTextRetrievalInferencer",
    "ModelEntry",
    "TextToImageRetrievalInferencer",
    "VisualQuestionAnsweringInferencer",
    "clear_cache",
    "get_model",
    "inference_model",
    "init_model",
    "list_models",
    "load_config",
    "model_entries",
    "query_attention",
    "word_maps",
]

_HOMES = {
    "blip2.apis.config": ("ConfigError", "load_config"),
    "blip2.apis.explain": ("query_attention", "word_maps"),
    "blip2.apis.hub": ("clear_cache", "get_model", "inference_model", "init_model", "list_models"),
    "blip2.apis.inferencers": (
        "Chat",
        "FeatureExtractor",
        "ImageCaptionInferencer",
        "ImageToTextRetrievalInferencer",
        "TextToImageRetrievalInferencer",
        "VisualQuestionAnsweringInferencer",
    ),
    "blip2.apis.metafile": ("ModelEntry", "model_entries"),
}


def __getattr__(name: str) -> Any:
    # `load_config` and the metafile need no torch; who only wants them shall not wait for it.
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'blip2.apis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
