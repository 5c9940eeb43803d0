"""What inferencers of all tasks share: from pictures of any kind to predictions, batch by batch."""

import dataclasses
import inspect
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
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
from .inputs import BadInputsError, ImageInput, describe, inputs_to_list, is_folder, missing_files
from .pipeline import Pipeline
from .placement import autocast, pick_device, precision_name, precision_of, spread_over_devices

OnError = Literal["raise", "return"]


@dataclass(frozen=True)
class Prediction:
    """What came out for one input: a data sample, or why there is none.

    Attributes:
        index: the input's place in the list.
        name: the input in words: its path or address, or its kind and size.
        data_sample: the model's data sample, None if the picture could not be read.
        error: None, or what was wrong with the picture.
        fields: what the call said of this picture besides: its question, its prompt.
    """

    index: int
    name: str
    data_sample: DataSample | None
    error: Exception | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Input:
    index: int
    item: ImageInput
    fields: dict[str, Any]


@dataclass(frozen=True)
class _Unreadable:
    input: _Input
    error: Exception


@dataclass(frozen=True)
class _Loaded:
    input: _Input
    pixels: NDArray[np.uint8]  # H×W×3, BGR
    data: dict[str, Any]  # the pipeline's output


class BaseInferencer:
    """Feeds pictures of any kind to one model.

    A child names its task, the results that users get (`pack`) and what a call may say of each picture besides
    (`fields`).

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
            (norms excepted); those of an instance are left alone. 'auto': bf16 for models of 50 million parameters or
            more where the device multiplies in it, else fp32; for an instance the type of its weights.
        **kwargs: changes to the model's config, as `get_model` takes them.

    Raises:
        ValueError: an unknown model name (the nearest are named), device or precision.
        TypeError: `model` is none of the above, or there are `kwargs` for a model instance.
    """

    task: ClassVar[str]
    field_kwargs: ClassVar[frozenset[str]] = frozenset()
    preprocess_kwargs: ClassVar[frozenset[str]] = frozenset({"num_workers"})
    drawing: ClassVar[type[Drawing]] = Drawing
    visualize_kwargs: ClassVar[frozenset[str]] = Drawing.names()

    def __init__(
        self,
        model: str | Path | Config | BaseModel,
        pretrained: bool | str | Path = True,
        device: str | torch.device | None = None,
        device_map: str | dict[str, Any] | None = None,
        offload_folder: str | None = None,
        *,
        precision: str = "auto",
        **kwargs: Any,
    ) -> None:
        precision = precision_name(precision)
        if device_map is not None and device is not None:
            raise ValueError(f"device={str(device)!r} and device_map exclude each other: give one of them")
        if isinstance(model, BaseModel):
            built = _adopt(model, pretrained, kwargs)
            if device_map is not None:
                built = spread_over_devices(built, device_map, offload_folder)
            elif device is not None:
                built = built.to(pick_device(device))
        else:
            place = None if device_map is not None else pick_device(device)
            built = get_model(
                model,
                pretrained=pretrained,
                device=place,
                device_map=device_map,
                offload_folder=offload_folder,
                precision=precision,
                **kwargs,
            )
        self.model: BaseModel = built.eval()
        self.precision = precision_of(built) if precision == "auto" else precision
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
        predictions = list(self.stream(images, batch_size, **kwargs))
        results = [result for prediction in predictions for result in self.results(prediction, return_datasamples)]
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
        items = inputs_to_list(images)
        said, kwargs = self.fields(images, len(items), kwargs)
        preprocess, forward, visualize = self.dispatch(kwargs)
        drawing = self.drawing(**visualize)
        self.model.eval()
        inputs = [_Input(index, item, fields) for index, (item, fields) in enumerate(zip(items, said, strict=True))]
        for batch in self._batches(inputs, batch_size, **preprocess):
            readable = [entry for entry in batch if isinstance(entry, _Loaded)]
            samples = iter(self.forward([entry.data for entry in readable], **forward) if readable else [])
            for entry in batch:
                index, item, fields = entry.input.index, entry.input.item, entry.input.fields
                if isinstance(entry, _Unreadable):
                    yield Prediction(index, describe(item), None, entry.error, fields)
                    continue
                sample = next(samples)
                self.finish(sample, fields)
                drawing.draw(entry.pixels, sample, item, index)
                yield Prediction(index, describe(item), sample, fields=fields)

    def fields(
        self, images: ImageInput | Sequence[ImageInput], count: int, kwargs: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """What `kwargs` say of each of the `count` pictures of `images`, and the other `kwargs`.

        Here a `prompt` that is a list holds one a picture; a child adds its `field_kwargs`.

        Raises:
            ValueError: the list's length is not `count`.
            TypeError: an item is no text.
        """
        prompts = kwargs.get("prompt")
        if not isinstance(prompts, list | tuple):
            return [{} for _ in range(count)], kwargs
        rest = {name: value for name, value in kwargs.items() if name != "prompt"}
        return [{"prompt": prompt} for prompt in one_each("prompt", prompts, count)], rest

    def annotate(self, data_sample: DataSample, fields: Mapping[str, Any]) -> None:
        """Writes into a picture's data sample, before the model sees it, what the pipeline did not pack of `fields`."""
        for name, value in fields.items():
            if name not in data_sample:
                data_sample.set_field(value, name)

    def finish(self, data_sample: DataSample, fields: Mapping[str, Any]) -> None:
        """Puts the model's data sample into the form that is drawn and returned."""

    def dispatch(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """`kwargs` sorted into those for reading, for the model and for drawing.

        Raises:
            TypeError: nobody knows an argument; names it and the nearest that somebody does.
        """
        groups = (self.preprocess_kwargs, self.forward_kwargs, self.visualize_kwargs)
        known = frozenset().union(*groups)
        for name in kwargs:
            if name not in known:
                names = known | self.field_kwargs
                raise TypeError(
                    f"{type(self).__name__} has no argument {name!r}.{did_you_mean(name, names)} "
                    f"It knows: {', '.join(sorted(names))}."
                )
        preprocess, forward, visualize = ({k: v for k, v in kwargs.items() if k in group} for group in groups)
        return preprocess, forward, visualize

    @property
    def forward_kwargs(self) -> frozenset[str]:
        """The arguments that the model's `predict` takes besides the pictures: those that it names, and its options."""
        parameters = inspect.signature(self.model.predict).parameters.values()
        named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        options = getattr(self.model, "options", None)
        if dataclasses.is_dataclass(options):
            named |= {option.name for option in dataclasses.fields(options)}
        return frozenset(named - {"images", "data_samples"})

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

    def refresh(self) -> None:
        """Looks again at what was read when this inferencer was made, since that may have changed; nothing here."""

    @classmethod
    def is_single(cls, images: Any, *args: Any, **kwargs: Any) -> bool:
        """Whether a call with these arguments asks for one result, not for a list of them."""
        return not isinstance(images, list | tuple) and not is_folder(images)

    @classmethod
    def list_models(cls, pattern: str | None = None) -> list[str]:
        """The names of the zoo's models for this task, those that match `pattern` (with * and ?) if it is given."""
        return list_models(pattern, task=cls.task)

    def _batches(
        self, inputs: list[_Input], batch_size: int, num_workers: int = 0
    ) -> Iterator[list[_Loaded | _Unreadable]]:
        chunks = [inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size)]
        if not num_workers:
            for chunk in chunks:
                yield [self._load(entry) for entry in chunk]
            return
        with ThreadPoolExecutor(num_workers) as pool:
            ahead: deque[list[Future[_Loaded | _Unreadable]]] = deque()
            for chunk in chunks:
                ahead.append([pool.submit(self._load, entry) for entry in chunk])
                if len(ahead) > 1:  # one batch is read while another goes through the model
                    yield [future.result() for future in ahead.popleft()]
            while ahead:
                yield [future.result() for future in ahead.popleft()]

    def _load(self, entry: _Input) -> _Loaded | _Unreadable:
        try:
            pixels = self.pipeline.load(entry.item)
        except (OSError, ValueError) as error:
            return _Unreadable(entry, error)
        path = str(entry.item) if isinstance(entry.item, str | Path) else None
        data = self.pipeline(pixels, path, entry.fields)
        self.annotate(data["data_samples"], entry.fields)
        return _Loaded(entry, pixels, data)

    def results(self, prediction: Prediction, return_datasamples: bool = False) -> list[Any]:
        """What users get of one picture: one result here, the text ``error`` in place of one that failed."""
        if prediction.data_sample is not None:
            return [prediction.data_sample if return_datasamples else self.pack(prediction.data_sample)]
        reason = str(prediction.error)
        return [DataSample(error=reason) if return_datasamples else {"error": reason}]


def plain(value: Any) -> Any:
    """A tensor or an array as Python numbers; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def one_each(name: str, texts: Sequence[str], count: int) -> list[str]:
    """`texts` as a list, checked to hold a text for each of `count` pictures."""
    if len(texts) != count:
        raise ValueError(f"{name} is a list of {len(texts)} for {count} pictures: give one for each, in their order")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{index}] is {text!r}; wanted a text")
    return list(texts)


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
