"""BLIP-2 model zoo: captioning, visual question answering and image-text retrieval, built from Python config files."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from blip2.apis import (
        Chat,
        FeatureExtractor,
        ImageCaptionInferencer,
        ImageToTextRetrievalInferencer,
        TextToImageRetrievalInferencer,
        VisualQuestionAnsweringInferencer,
        get_model,
        inference_model,
        init_model,
        list_models,
        load_config,
    )

__all__ = [
    "Chat",
    "FeatureExtractor",
    "ImageCaptionInferencer",
    "ImageToTextRetrievalInferencer",
    "TextToImageRetrievalInferencer",
    "VisualQuestionAnsweringInferencer",
    "__version__",
    "get_model",
    "inference_model",
    "init_model",
    "list_models",
    "load_config",
]


def __getattr__(name: str) -> Any:
    # The API pulls in torch and transformers; `import blip2` alone stays light.
    if name in __all__:
        return getattr(import_module("blip2.apis"), name)
    raise AttributeError(f"module 'blip2' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
