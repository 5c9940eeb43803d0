"""What inferencers of all tasks share: from pictures of any kind to predictions, batch by batch."""

import inspect
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset.utils import pseudo_collate
from mmengine.model import BaseModel
from numpy.typing import NDArray

from blip2.apis.hub import get_model, list_models
from blip2.checkpoints import load_checkpoint
from blip2.structures import DataSample
from blip2.utils.errors import MissingImageError
from blip2.utils.suggest import did_you_mean

from .drawing import Drawing
from .inputs import BadInputsError, ImageInput, describe, inputs_to_list, missing_files
from .pipeline import Pipeline
from .placement import autocast, pick_device, precision_name, spread_over_devices, store_weights_in

OnError = Literal["raise", "return"]


@dataclass(frozen=True)
class Prediction:
    """What came out for one input: a data sample, or why there is none.

    Attributes:
        index: the input's place in the list.
        name: the input in words: its path or address, or its kind and size.
        data_sample: the model's data sample, None if the picture could not be read.
        error: None, or what was wrong with the picture.
    """

    index: int
    name: str
    data_sample: DataSample | None
    error: Exception | None = None


@dataclass(frozen=True)
class _Unreadable:
    index: int
    item: ImageInput
    error: Exception


@dataclass(frozen=True)
class _Loaded:
    index: int
    item: ImageInput
    pixels: NDArray[np.uint8]  # H×W×3, BGR
    data: dict[str, Any]  # the pipeline's output


class BaseInferencer:
    """Feeds pictures of any kind to one model.

    A child names its task and the results that users get (`pack`).

    Args:
        model: a model name (see `list_models`), a config (path or `Config`), or a model from `get_model` or
            `init_model`.
        pretrained: True for the model's own weights, False for none, or the path or address of a checkpoint. Of a model
            instance only a path or address is loaded.
        device: where to compute; by default the first CUDA device, or the CPU where there is none. A model instance
            stays where it is unless a device is named.
        device_map: spreads the model over devices with the package ``accelerate``: 'auto' or {module name: device}.
        offload_folder: for `device_map`: where the weights go that fit on no device.
        precision: 'fp32', 'bf16' or 'fp16': the type of the matrix products. A model built here stores its weights so
            (norms excepted); those of an instance are left alone.
        **kwargs: changes to the model's config, as `get_model` takes them.

    Raises:
        ValueError: an unknown model name (the nearest are named), device or precision.
        TypeError: `model` is none of the above, or there are `kwargs` for a model instance.
    """

    task: ClassVar[str]
    preprocess_kwargs: ClassVar[frozenset[str]] = frozenset({"num_workers"})
    visualize_kwargs: ClassVar[frozenset[str]] = Drawing.names()

    def __init__(
        self,
        model: str | Path | Config | BaseModel,
        pretrained: bool | str | Path = True,
        device: str | torch.device | None = None,
        device_map: str | dict[str, Any] | None = None,
        offload_folder: str | None = None,
        *,
        precision: str = "fp32",
        **kwargs: Any,
    ) -> None:
        self.precision = precision_name(precision)
        if device_map is not None and device is not None:
            raise ValueError(f"device={str(device)!r} and device_map exclude each other: give one of them")
        if isinstance(model, BaseModel):
            place = None if device is None else pick_device(device)
            built = _adopt(model, pretrained, kwargs)
        else:
            place = None if device_map is not None else pick_device(device)
            built = get_model(model, pretrained=pretrained, device="cpu", **kwargs)
            store_weights_in(built, self.precision)
        if device_map is not None:
            built = spread_over_devices(built, device_map, offload_folder)
        elif place is not None:
            built = built.to(place)
        self.model: BaseModel = built.eval()
        self.config = config_of(built)
        self.pipeline = Pipeline(self.config)

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput],
        return_datasamples: bool = False,
        batch_size: int = 1,
        *,
        on_error: OnError = "raise",
        **kwargs: Any,
    ) -> list[Any]:
        """Predicts for one picture or many.

        Args:
            images: one picture, a folder's path, or a list of pictures. A picture is a path, a web address, `bytes` of
                a picture file, a `PIL.Image`, a numpy array **in OpenCV's BGR order** (H×W×3, H×W×4 or H×W grey) or a
                tensor in RGB order (3×H×W; uint8, or float from 0 to 1).
            return_datasamples: gives `DataSample` objects instead of dictionaries.
            batch_size: pictures that go through the model together; the last batch may be smaller.
            on_error: what happens to a list with pictures that cannot be read. 'raise': the others are done first, then
                `BadInputsError` names each bad one and carries the results. 'return': a bad one's result is the text
                ``error``.
            **kwargs: by name, of three kinds. For reading: ``num_workers``, threads that read ahead. For the model:
                what its `predict` takes (``num_beams``, ``prompt`` …). For drawing, as in `UniversalVisualizer`:
                ``show_dir``, ``show``, ``wait_time``, ``resize``, ``rescale_factor``, ``draw_score``, ``text_cfg``.

        Returns:
            One result a picture, in order.

        Raises:
            TypeError: an unknown argument, or an input of a wrong type.
            ValueError: an empty list, a picture that cannot be read.
            FileNotFoundError: a path of no file, before any picture is worked on (unless `on_error` is 'return').
        """
        if on_error not in ("raise", "return"):
            raise ValueError(f"on_error={on_error!r} is neither 'raise' nor 'return'")
        items = inputs_to_list(images)
        if on_error == "raise" and (missing := missing_files(items)):
            raise MissingImageError(f"no such file: {', '.join(missing[:5])}" + (" …" if len(missing) > 5 else ""))
        predictions = list(self.stream(items, batch_size, **kwargs))
        results = [self._result(prediction, return_datasamples) for prediction in predictions]
        failures = {p.index: p.error for p in predictions if p.error is not None}
        if failures and on_error == "raise":
            if len(items) == 1:
                raise failures[0]
            raise BadInputsError.of_list(failures, items, results)
        return results

    def stream(
        self, images: ImageInput | Sequence[ImageInput], batch_size: int = 1, **kwargs: Any
    ) -> Iterator[Prediction]:
        """Like a call, but hands out predictions batch by batch, with those pictures among them that cannot be read.

        Arguments are checked at the first step of the iterator.
        """
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r}: wanted a whole number, 1 or more")
        preprocess, forward, visualize = self.dispatch(kwargs)
        drawing = Drawing(**visualize)
        self.model.eval()
        for batch in self._batches(inputs_to_list(images), batch_size, **preprocess):
            readable = [entry.data for entry in batch if isinstance(entry, _Loaded)]
            samples = iter(self.forward(readable, **forward) if readable else [])
            for entry in batch:
                if isinstance(entry, _Unreadable):
                    yield Prediction(entry.index, describe(entry.item), None, entry.error)
                    continue
                sample = next(samples)
                drawing.draw(entry.pixels, sample, entry.item, entry.index)
                yield Prediction(entry.index, describe(entry.item), sample)

    def dispatch(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """`kwargs` sorted into those for reading, for the model and for drawing.

        Raises:
            TypeError: nobody knows an argument; names it and the nearest that somebody does.
        """
        groups = (self.preprocess_kwargs, self.forward_kwargs, self.visualize_kwargs)
        known = frozenset().union(*groups)
        for name in kwargs:
            if name not in known:
                raise TypeError(
                    f"{type(self).__name__} has no argument {name!r}.{did_you_mean(name, known)} "
                    f"It knows: {', '.join(sorted(known))}."
                )
        preprocess, forward, visualize = ({k: v for k, v in kwargs.items() if k in group} for group in groups)
        return preprocess, forward, visualize

    @property
    def forward_kwargs(self) -> frozenset[str]:
        """The arguments that the model's `predict` takes besides the pictures."""
        parameters = inspect.signature(self.model.predict).parameters.values()
        named = (p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        return frozenset(named) - {"images", "data_samples"}

    def forward(self, batch: list[dict[str, Any]], **kwargs: Any) -> list[DataSample]:
        """One batch of the pipeline's outputs through the model; one data sample each, in order."""
        with torch.inference_mode(), autocast(self.device, self.precision):
            data = self.model.data_preprocessor(pseudo_collate(batch), False)
            return self.model(**data, mode="predict", **kwargs)

    @property
    def device(self) -> torch.device:
        """Where the model's first weights lie."""
        return next(self.model.parameters()).device

    def pack(self, data_sample: DataSample) -> dict[str, Any]:
        """A data sample as the dictionary that users get."""
        raise NotImplementedError(f"{type(self).__name__} defines no pack()")

    @classmethod
    def list_models(cls, pattern: str | None = None) -> list[str]:
        """The names of the zoo's models for this task, those that match `pattern` (with * and ?) if it is given."""
        return list_models(pattern, task=cls.task)

    def _batches(
        self, items: list[ImageInput], batch_size: int, num_workers: int = 0
    ) -> Iterator[list[_Loaded | _Unreadable]]:
        chunks = [range(start, min(start + batch_size, len(items))) for start in range(0, len(items), batch_size)]
        if not num_workers:
            for chunk in chunks:
                yield [self._load(items[index], index) for index in chunk]
            return
        with ThreadPoolExecutor(num_workers) as pool:
            ahead: deque[list[Future[_Loaded | _Unreadable]]] = deque()
            for chunk in chunks:
                ahead.append([pool.submit(self._load, items[index], index) for index in chunk])
                if len(ahead) > 1:  # one batch is read while another goes through the model
                    yield [future.result() for future in ahead.popleft()]
            while ahead:
                yield [future.result() for future in ahead.popleft()]

    def _load(self, item: ImageInput, index: int) -> _Loaded | _Unreadable:
        try:
            pixels = self.pipeline.load(item)
        except (OSError, ValueError) as error:
            return _Unreadable(index, item, error)
        path = str(item) if isinstance(item, str | Path) else None
        return _Loaded(index, item, pixels, self.pipeline(pixels, path))

    def _result(self, prediction: Prediction, return_datasamples: bool) -> DataSample | dict[str, Any]:
        if prediction.data_sample is not None:
            return prediction.data_sample if return_datasamples else self.pack(prediction.data_sample)
        reason = str(prediction.error)
        return DataSample(error=reason) if return_datasamples else {"error": reason}


def _adopt(model: BaseModel, pretrained: bool | str | Path, changes: dict[str, Any]) -> BaseModel:
    if changes:
        raise TypeError(
            f"{', '.join(map(repr, changes))}: changes of the config need a model name or a config as `model`; "
            f"this {type(model).__name__} is built already"
        )
    if not isinstance(pretrained, bool):
        load_checkpoint(model, pretrained)
    return model


def config_of(model: BaseModel) -> Config:
    """The config that `model` was built from, as `get_model` and `init_model` leave it on the model.

    Raises:
        ValueError: the model was built some other way.
    """
    config = getattr(model, "_config", None)
    if config is None:
        raise ValueError(
            f"this {type(model).__name__} does not know its config, which says how pictures are prepared; build it "
            "with blip2.get_model(name) or blip2.init_model(config), or set model._config = blip2.load_config(config)"
        )
    return config
