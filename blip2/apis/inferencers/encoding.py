"""What inferencers share that want features of pictures and texts rather than a model's prediction."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.dataset.utils import pseudo_collate
from torch import Tensor

from blip2.datasets.transforms import CleanCaption
from blip2.utils.errors import InputWarning

from .base import BaseInferencer, _Input, _Loaded, _Unreadable
from .inputs import ImageInput
from .placement import autocast

# Texts are short: this many go through the model together, whatever the number of pictures.
TEXTS_AT_A_TIME = 256


class EncodingInferencer(BaseInferencer):
    """Reads pictures and texts the way the config's test pipeline does, and gives them to the model's encoders.

    Arguments are those of `BaseInferencer`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._told: set[str] = set()
        cleaners = [step for step in self.pipeline.transforms if isinstance(step, CleanCaption)]
        self._cleaners = [step for step in cleaners if "text" in step.keys]
        # A picture comes without a text here, which those steps would miss.
        self.pipeline.transforms = [step for step in self.pipeline.transforms if step not in cleaners]

    def clean(self, texts: Sequence[str], name: str = "texts") -> list[str]:
        """Texts as the test pipeline makes them (`CleanCaption`).

        Raises:
            TypeError: one of `texts` is no text; names it as an item of `name`.
            ValueError: there is none, or nothing is left of one.
        """
        if isinstance(texts, str):
            texts = [texts]
        if not texts:
            raise ValueError(f"{name} is an empty list; wanted at least one text")
        cleaned = []
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"{name}[{index}] is a {type(text).__name__}; wanted a text")
            whole = text
            for step in self._cleaners:
                text = str(step.clean(text))
            if not text.strip():
                raise ValueError(f"{name}[{index}] is {whole!r}: nothing to compare with a picture; give it some words")
            cleaned.append(text)
        return cleaned

    def read_pictures(
        self, items: Sequence[ImageInput], batch_size: int, num_workers: int = 0
    ) -> Iterator[tuple[list[int], list[dict[str, Any]], dict[int, Exception]]]:
        """Pictures through the pipeline, batch by batch.

        Yields numbers and pipeline outputs of those that could be read, and the errors of the others by number.
        """
        inputs = [_Input(index, item, {}) for index, item in enumerate(items)]
        for batch in self._batches(inputs, batch_size, num_workers):
            loaded = [entry for entry in batch if isinstance(entry, _Loaded)]
            errors = {entry.input.index: entry.error for entry in batch if isinstance(entry, _Unreadable)}
            yield [entry.input.index for entry in loaded], [entry.data for entry in loaded], errors

    def encode_pictures(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The model's `image_features` of pipeline outputs."""
        self.model.eval()
        with torch.inference_mode(), autocast(self.device, self.precision):
            images = self.model.data_preprocessor(pseudo_collate(batch), False)["images"]
            return self.model.image_features(images)

    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """The model's `text_features` of cleaned texts."""
        self.model.eval()
        with torch.inference_mode(), autocast(self.device, self.precision):
            return self.model.text_features(list(texts))

    def tell(self, text: str, category: type[InputWarning] = InputWarning) -> None:
        """Warns, once for each text."""
        if text not in self._told:
            self._told.add(text)
            warnings.warn(text, category, stacklevel=3)

    def tell_of_cut(self, num_cut: int, count: int) -> None:
        """Tells that so many of `count` texts were cut, if there are any."""
        if num_cut:
            self.tell(
                f"{num_cut} of {count} texts are longer than the {self.model.max_txt_len} tokens that the model takes "
                "(max_txt_len), and cut"
            )


def whole_number(name: str, value: Any) -> int:
    """`value`, checked to be a whole number of 1 or more.

    Raises:
        ValueError: it is something else; says so of `name`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r}: wanted a whole number, 1 or more")
    return value
