"""Names of the zoo to built models and to predictions, with mmpretrain's signatures."""

import copy
import fnmatch
import inspect
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from blip2.apis.config import SCOPE, ConfigError, load_config
from blip2.apis.metafile import ModelEntry, model_entries
from blip2.apis.weights import follow_source
from blip2.apis.zoo import weights_source
from blip2.checkpoints import Source, is_complete_with_weights, load_checkpoint, open_checkpoint
from blip2.checkpoints.fetch import NotFetchedError, fetch
from blip2.registry import MODELS
from blip2.utils.fast_types import default_precision
from blip2.utils.suggest import did_you_mean

if TYPE_CHECKING:
    from mmengine.model import BaseModel

    from blip2.apis.inferencers import BaseInferencer

# A full-size model fills most of a graphics card: one kept model at a time.
CACHE_SIZE = 1

_inferencers: "OrderedDict[str, BaseInferencer]" = OrderedDict()


def list_models(
    pattern: str | Sequence[str] | None = None,
    exclude_patterns: str | Sequence[str] | None = None,
    task: str | None = None,
) -> list[str]:
    """The names of the zoo's models, sorted.

    `pattern` and `exclude_patterns` are wildcards (``'blip2*caption'``), one or several; a pattern also matches any
    name that starts with it. `task` is a task as the metafiles name it (``'Image Caption'``, any case); an unknown
    one raises `ValueError` that names the known ones.
    """
    entries = model_entries()
    names = set(entries)
    if pattern is not None:
        names = _matching(names, pattern)
    if exclude_patterns is not None:
        names -= _matching(names, exclude_patterns)
    if task is not None:
        tasks = sorted({name for entry in entries.values() for name in entry.tasks})
        if task.lower() not in (name.lower() for name in tasks):
            raise ValueError(f"no model has the task {task!r}; known tasks: {', '.join(tasks)}")
        names = {name for name in names if task.lower() in (item.lower() for item in entries[name].tasks)}
    return sorted(names)


def _matching(names: set[str], patterns: str | Sequence[str]) -> set[str]:
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return {name for name in names if any(fnmatch.fnmatch(name, pattern + "*") for pattern in patterns)}


def get_model(
    model: str | Path | Config,
    pretrained: bool | str | Path = False,
    device: str | torch.device | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    offload_folder: str | None = None,
    url_mapping: tuple[str, str] | None = None,
    *,
    precision: str = "fp32",
    max_memory: Mapping[int | str, int | str] | None = None,
    vision_tower: str | Path | None = None,
    **kwargs: Any,
) -> "BaseModel":
    """Build a model of the zoo, in `eval()`.

    `model` is a model name or a config, as `load_config` takes it. `pretrained` is True for the weights that the zoo
    knows, or the path or address of others, in any of the formats that `blip2.checkpoints.open_checkpoint` knows;
    False leaves the weights random. `vision_tower` is the file of an image encoder that a checkpoint of LAVIS was
    saved without. The weights' epsilon of `ln_vision_backbone` and number of words win over the config's.

    `device_map` (with `max_memory` and `offload_folder`) spreads the model over devices through accelerate, instead of
    `device`. `precision` is 'fp32', 'bf16', 'fp16' or 'auto' (see `default_precision`): the type that the weights of
    linear, convolution and embedding layers are kept in; use the model under `torch.autocast` then, as inferencers do.
    `url_mapping` is a pattern and its replacement for the weights' address, for a mirror. Other arguments override
    fields of the config's `model` (``prompt='a picture of'``, ``vision_backbone={'img_size': 224}``).

    The model carries its config as ``_config`` and its `ModelEntry` (None for a config without one) as ``_metainfo``.

    Raises `ConfigError` for an unknown name or for arguments that the model doesn't take, `ValueError` when the zoo
    knows no weights, `CheckpointError` or `FileNotFoundError` for weights that can't be had.
    """
    config = load_config(model)
    entry = _entry_of(model, config)
    weights = _weights_of(pretrained, entry, model, url_mapping)
    if vision_tower is not None and weights is None:
        raise ValueError("vision_tower has no meaning without pretrained weights")
    if device_map is not None and device is not None:
        raise ValueError(f"device={str(device)!r} and device_map exclude each other: give one of them")
    if device_map is None and (offload_folder is not None or max_memory is not None):
        raise ValueError("offload_folder and max_memory have no meaning without device_map")
    from blip2.apis.inferencers.placement import pick_device, precision_name, spread_over_devices, store_weights_in

    precision = precision_name(precision)
    with _naming_the_download(entry):
        opened = None if weights is None else open_checkpoint(weights, vision_tower)
        if opened is not None:
            follow_source(config, opened)
        built = _built_for(opened, config, kwargs, known=entry is not None)
        if precision == "auto":
            spread = pick_device(None) if device_map is not None else "cpu"
            precision = default_precision(built, device or spread)
        store_weights_in(built, precision)
        if device_map is not None:
            built = spread_over_devices(built, device_map, offload_folder, max_memory, opened)  # type: ignore[assignment]
        elif opened is not None:
            load_checkpoint(built, opened, map_location=device or "cpu")
    if opened is not None and "layer_norm_eps" in kwargs:
        built.ln_vision_backbone.eps = kwargs["layer_norm_eps"]
    built._metainfo = entry
    return (built if device is None else built.to(device)).eval()


@contextmanager
def _naming_the_download(entry: ModelEntry | None) -> Iterator[None]:
    """Where something that a zoo's model needs is not here: says also which command fetches all of it."""
    try:
        yield
    except NotFetchedError as error:
        if entry is None:
            raise
        raise NotFetchedError(f"{error}\n`blip2 download {entry.name}` fetches all that it needs.") from error


def _built_for(weights: Source | None, config: Config, overrides: dict[str, Any], known: bool) -> "BaseModel":
    """The model; without memory of its own where `weights` will bring all of it, so that nothing is drawn or held in
    vain. Of the zoo's own models that is `known`.
    """
    if weights is not None:
        with suppress(Exception), torch.device("meta"):  # a part that does not stand this says so below, if it must
            built = _build(copy.deepcopy(config), overrides)
            if known or is_complete_with_weights(built):
                return built
    return _build(config, overrides)


def init_model(
    config: str | Path | Config,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    **kwargs: Any,
) -> "BaseModel":
    """Build the model of `config` with the weights of `checkpoint`: `get_model` with its arguments in another order."""
    if isinstance(checkpoint, bool):
        raise TypeError("checkpoint must be a path or an address; for the zoo's own weights use get_model")
    return get_model(config, pretrained=False if checkpoint is None else checkpoint, device=device, **kwargs)


def inference_model(model: str | Path | Config | nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Predict for one picture, or for many: ``inference_model(name, 'a.jpg')['pred_caption']`` and
    ``inference_model(name, 'a.jpg', 'what is this?')['pred_answer']``.

    Arguments are those of the task's inferencer, of its constructor (``device``, ``pretrained`` …) and of its call
    (``batch_size``, ``show_dir``, ``num_beams`` …), in one list. One picture (and one question) gives one result; a
    list, a folder or several questions give a list. For retrieval the constructor's ``prototype`` is what is searched
    in: ``inference_model(name, 'a.jpg', prototype=['a cat', 'a dog'])`` finds texts for a picture,
    ``inference_model(name, 'a dog', prototype='photos')`` pictures for a text.

    The model of the last name is kept (`CACHE_SIZE` of them, `clear_cache` drops it), so that a second call with the
    same name and the same constructor arguments doesn't build it again.
    """
    from blip2.apis.inferencers import inferencer_for

    if not isinstance(model, str | Path | Config | nn.Module):
        raise TypeError(f"model must be a model name, a config or a model, not {type(model).__name__}")
    if not args:
        raise TypeError("inference_model needs a picture: inference_model(model, 'picture.jpg')")
    kind = inferencer_for(task_source(model), args[0])
    build_names = set(inspect.signature(kind).parameters) - {"model", "kwargs"}
    build = {name: kwargs.pop(name) for name in list(kwargs) if name in build_names}
    if "prototype" in build_names and "prototype" not in build:
        raise TypeError(f"{kind.__name__} needs prototype=…: the texts or the folder of pictures to search in")
    by_name = isinstance(model, str | Path) and str(model) in model_entries() and all(map(_is_plain, build.values()))
    inferencer = _cached(str(model), kind, build) if by_name else kind(model, **build)  # type: ignore[arg-type]
    results = inferencer(*args, **kwargs)
    return results[0] if kind.is_single(*args, **kwargs) else results


def task_source(model: str | Path | Config | nn.Module) -> Any:
    """What tells the task: a name of the zoo, the model itself, or the class that a config builds."""
    if isinstance(model, nn.Module) or str(model) in model_entries():
        return str(model) if isinstance(model, Path) else model
    config = load_config(model)
    kind = MODELS.get(config.get("model", {}).get("type", ""))
    if kind is None:
        raise ConfigError(f"{config.filename or 'the config'} has no 'model' of a registered type")
    return kind


def _is_plain(value: Any) -> bool:
    """Whether the text of `value` tells it from others, as that of an array or a data set does not."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, str | Path | int | float | torch.device)


def clear_cache() -> None:
    """Drop the models that `inference_model` keeps."""
    _inferencers.clear()


def _cached(name: str, kind: "type[BaseInferencer]", build: dict[str, Any]) -> "BaseInferencer":
    key = repr((name, kind.__name__, sorted(build.items())))
    if key not in _inferencers:
        # Room first: the old and the new one may not fit side by side.
        while len(_inferencers) >= max(CACHE_SIZE, 1):
            _inferencers.popitem(last=False)
        _inferencers[key] = kind(name, **build)
    else:
        _inferencers[key].refresh()
    _inferencers.move_to_end(key)
    return _inferencers[key]


# ----- building -----


def _entry_of(model: str | Path | Config, config: Config) -> ModelEntry | None:
    entries = model_entries()
    if isinstance(model, str | Path) and str(model) in entries:
        return entries[str(model)]
    for entry in entries.values():
        if config.filename and Path(config.filename).resolve() == entry.config.resolve():
            return entry
    return None


def _weights_of(
    pretrained: bool | str | Path,
    entry: ModelEntry | None,
    model: str | Path | Config,
    url_mapping: tuple[str, str] | None,
) -> str | None:
    if pretrained is False or pretrained is None:
        return None
    if isinstance(pretrained, str | Path):
        weights = str(pretrained)
    elif pretrained is not True:
        raise TypeError(f"pretrained must be True, False, a path or an address, not {type(pretrained).__name__}")
    elif entry is None or entry.weights is None:
        with_weights = [name for name, item in model_entries().items() if item.weights]
        name = model if isinstance(model, str | Path) else "this config"
        raise ValueError(
            f"the zoo knows no weights for {str(name)!r}: give a path or an address as pretrained. Models with "
            f"weights: {', '.join(with_weights) or 'none'}"
        )
    else:
        weights = _known_weights(entry)
    if url_mapping is not None:
        pattern, replacement = url_mapping
        weights = re.sub(pattern, replacement, weights)
    return weights


def _known_weights(entry: ModelEntry) -> str:
    weights = weights_source(entry)
    assert weights is not None
    if entry.sha256 and weights == entry.weights:
        fetch(weights, entry.sha256)  # checked where it is known what to expect
    return weights


def _build(config: Config, overrides: dict[str, Any]) -> "BaseModel":
    source = config.filename or "the config"
    if not isinstance(config.get("model"), dict):
        raise ConfigError(f"{source} has no 'model'")
    if overrides:
        try:
            config.merge_from_dict({"model": overrides})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"{', '.join(overrides)} cannot override the model of {source}: {error}") from error
    fields = copy.deepcopy(config.model)
    if config.get("data_preprocessor") is not None:
        fields.setdefault("data_preprocessor", config.data_preprocessor)
    scope = config.get("default_scope", SCOPE)
    try:
        with DefaultScope.overwrite_default_scope(scope):
            model = MODELS.build(fields)
    except (TypeError, KeyError, ValueError) as error:
        text = str(error.args[0]) if error.args else type(error).__name__
        raise ConfigError(f"the model of {source} cannot be built: {text}{_suggestion(text)}") from error
    model._config = config
    model._metainfo = None
    return model


def build_on_meta(config: Config) -> "BaseModel":
    """The model of a config without memory for its weights: its structure, shapes and settings.

    Raises `ConfigError` for a config that builds no model.
    """
    with torch.device("meta"):
        return _build(config, {})


def _suggestion(error: str) -> str:
    """For an argument or a type that nobody knows, the nearest that somebody does."""
    argument = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", error)
    if argument and (kind := MODELS.get(argument[1])):
        return did_you_mean(argument[2], set(inspect.signature(kind).parameters) - {"self"}, count=1)
    unknown_type = re.match(r"(\w+) is not in the \S+ registry", error)
    return did_you_mean(unknown_type[1], MODELS.module_dict, count=1) if unknown_type else ""
