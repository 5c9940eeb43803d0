"""Loading weights into a model: every key and shape accounted for, or an error that names them."""

import itertools
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from blip2.checkpoints.convert import unknown_format
from blip2.checkpoints.fetch import language_model_folder
from blip2.checkpoints.mapped import expect, release, taken
from blip2.checkpoints.read import CheckpointError
from blip2.checkpoints.save import LANGUAGE_MODEL
from blip2.checkpoints.source import Source, open_checkpoint
from blip2.utils.suggest import nearest

# Tables that a vision encoder resizes to its own grid in its load hook.
RESIZED_AT_LOAD = ("pos_embed",)
_COUNTED = "position_ids"  # a buffer that counts from 0, which some formats do without
_TOWER_BLOCKS = "vision_backbone.layers."
_SHOWN = 5
_UNTIE = {"text_backbone": "model.text_backbone.tie_word_embeddings=False in its config gives the head its own weight"}
_WORDS = ("embed_tokens.weight", "lm_head.weight", "shared.weight")
_AHEAD = 1 << 27  # bytes that the system is asked to read ahead

Place = str | torch.device | Mapping[str, Any]


@dataclass(frozen=True)
class LoadResult:
    """What `load_checkpoint` did.

    Attributes:
        missing: keys of the model that were left as they were.
        unexpected: keys of the file that were not used.
        language_model, vision_tower: where they came from, if not from the file.
        lost: what of the file has no place in any model here, in words.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    language_model: Path | None = None
    vision_tower: Path | None = None
    lost: tuple[str, ...] = ()


def load_checkpoint(
    model: nn.Module,
    source: str | Path | Source,
    *,
    map_location: Place = "cpu",
    strict: bool = True,
    allow_missing_language_model: bool = True,
    vision_tower: str | Path | None = None,
    offload_folder: str | Path | None = None,
) -> LoadResult:
    """Load a checkpoint of any publisher into `model`, cast to the model's types.

    `source` is a file, a Hugging Face folder, a resource or an address (see `fetch`), in any format that
    `open_checkpoint` knows. The layer norm behind the image encoder gets the source's epsilon. A file without any
    ``text_backbone.*`` (the published ones) is completed from the language model's own `name_or_path`, unless
    `allow_missing_language_model` is off; one of LAVIS without image encoder from `vision_tower`. What a format never
    holds (a temperature, say) stays as it is, or starts afresh in a model on ``meta``.

    A model on the ``meta`` device gets its tensors on `map_location`, one at a time, without a second copy in between:
    a device, or accelerate's map from modules to devices. What that map sends to 'disk' is written to `offload_folder`
    in accelerate's layout and stays on ``meta``. `strict=False` reports missing and unknown keys instead of raising; a
    wrong shape always raises.

    Raises `CheckpointError` before anything is changed (only a position table that cannot be resized is found out
    later), `FileNotFoundError` for a missing file.
    """
    opened = source if isinstance(source, Source) else open_checkpoint(source, vision_tower)
    state, name = dict(opened.tensors), opened.name
    own = model.state_dict()
    if opened.vision_tower is not None:  # its own file may hold more blocks than BLIP-2 uses
        state = {key: value for key, value in state.items() if key in own or not key.startswith(_TOWER_BLOCKS)}
    tied = _tied_parameters(model)
    _check_tied(state, tied, name)
    _complete_tied(state, own, tied)
    kept = [key for key in own if key not in state and opened.lacks(key)]
    missing = [key for key in own if key not in state and key not in set(kept)]
    unexpected = [key for key in state if key not in own]
    folder = None
    if allow_missing_language_model and _lacks_language_model(state, missing):
        folder = _folder_of_language_model(model, name)
        missing = [key for key in missing if not key.startswith(LANGUAGE_MODEL)]
    wrong = [key for key in state if key in own and _shape_differs(key, state[key], own[key])]
    if wrong or (strict and (missing or unexpected)):
        raise CheckpointError(_mismatch(model, name, state, own, missing, unexpected, wrong))
    _load(
        model, {key: value for key, value in state.items() if key in own}, own, tied, name, map_location, offload_folder
    )
    _keep_counting(model, kept)
    if folder is not None:
        model.text_backbone.load_pretrained(folder)  # type: ignore[operator, union-attr]
    _set_epsilon(model, opened)
    if strict:
        _start_afresh(model, kept)
        _check_nothing_on_meta(model, name, map_location)
    return LoadResult((*missing, *kept), tuple(unexpected), folder, opened.vision_tower, opened.lost)


def check_fits(model: nn.Module, source: Source) -> None:
    """Raises `CheckpointError` that names the keys unless the weights are all of `model`'s, in its shapes."""
    state, own = dict(source.tensors), model.state_dict()
    _complete_tied(state, own, _tied_parameters(model))
    missing = [key for key in own if key not in state and not source.lacks(key)]
    unexpected = [key for key in state if key not in own]
    wrong = [key for key in state if key in own and state[key].shape != own[key].shape]
    if missing or unexpected or wrong:
        raise CheckpointError(_mismatch(model, source.name, state, own, missing, unexpected, wrong))


def is_complete_with_weights(model: nn.Module) -> bool:
    """Whether a model on the meta device has nothing that a checkpoint would not bring.

    Of modules that are neither ours nor torch's nor transformers' it isn't known what they compute when they are built.
    """
    known = ("blip2.", "torch.nn.", "transformers.")
    if not all(type(module).__module__.startswith(known) for module in model.modules()):
        return False
    saved = model.state_dict().keys()
    named = itertools.chain(model.named_parameters(), model.named_buffers())
    return all(name in saved for name, tensor in named if tensor.is_meta)


def _load(
    model: nn.Module,
    state: dict[str, Tensor],
    own: dict[str, Tensor],
    tied: list[list[str]],
    source: str,
    device: Place,
    offload_folder: str | Path | None,
) -> None:
    on_meta = any(tensor.is_meta for tensor in own.values())
    if on_meta:
        state = _taken_over(state, own, tied, device, offload_folder)
    else:
        # What the model's own hooks change on the way; and they may refuse it, before anything else is changed.
        others = {key: value for key, value in state.items() if value.shape == own[key].shape}
        state = {key: value for key, value in state.items() if key not in others}
    try:
        model.load_state_dict(state, strict=False, assign=on_meta)
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint {source} does not fit {type(model).__name__}: {error}") from error
    if on_meta:
        _tie_again(model, tied)
        return
    with torch.no_grad():
        for key in _in_order(others):
            own[key].copy_(others[key])
            release(others[key])


def _taken_over(
    state: dict[str, Tensor],
    own: dict[str, Tensor],
    tied: list[list[str]],
    place: Place,
    offload_folder: str | Path | None,
) -> dict[str, Tensor]:
    """Copies in the model's types at their places (where the model has tensors already: at theirs); tied ones once."""
    first = {name: names[0] for names in tied for name in names if names[0] in state}
    found: dict[str, Tensor] = {}
    offloaded: dict[str, dict[str, Any]] = {}
    for key in _in_order(state):
        value, mine = state[key], own[key]
        dtype = mine.dtype if mine.is_floating_point() else None
        device = device_of(key, place) if mine.is_meta else mine.device
        if device == "disk":
            _write_to(offload_folder, key, taken(value, dtype), offloaded)
        elif first.get(key, key) == key:
            found[key] = taken(value, dtype, device)
    if offloaded:
        from accelerate.utils import save_offload_index

        save_offload_index(offloaded, offload_folder)
    same = {key: found[first[key]] for key in state if key in first and key not in offloaded and first[key] in found}
    return {**found, **same}


def device_of(key: str, place: Place) -> str | torch.device:
    """The device of a parameter; of a map, that of the longest module name that it lies in."""
    if not isinstance(place, Mapping):
        return place
    names = [name for name in place if not name or key == name or key.startswith(f"{name}.")]
    if not names:
        raise ValueError(f"device_map names no device for {key}: its names are {', '.join(place)}")
    return place[max(names, key=len)]


def _write_to(folder: str | Path | None, key: str, tensor: Tensor, index: dict[str, dict[str, Any]]) -> None:
    from accelerate.utils import offload_weight

    if folder is None:
        raise ValueError(f"{key} goes to the disk: say where with offload_folder")
    Path(folder).mkdir(parents=True, exist_ok=True)
    offload_weight(tensor, key, folder, index)


def _in_order(state: dict[str, Tensor]) -> Iterable[str]:
    """The keys as their tensors lie in memory, hence in the files; the system reads some way ahead."""
    keys = sorted(state, key=lambda key: state[key].data_ptr())
    ahead, asked = 0, 0
    for place, key in enumerate(keys):
        while asked < len(keys) and (asked <= place or ahead < _AHEAD):
            expect([state[keys[asked]]])
            ahead += state[keys[asked]].nbytes
            asked += 1
        yield key
        ahead -= state[key].nbytes


# ----- what formats do without -----


def _keep_counting(model: nn.Module, kept: list[str]) -> None:
    """Positions that count from 0 have no other value."""
    for key in kept:
        owner, _, leaf = key.rpartition(".")
        buffer = getattr(model.get_submodule(owner), leaf)
        if leaf == _COUNTED and buffer.is_meta:
            counted = torch.arange(buffer.shape[-1], dtype=buffer.dtype).expand(buffer.shape).clone()
            setattr(model.get_submodule(owner), leaf, counted)


def _start_afresh(model: nn.Module, kept: list[str]) -> None:
    on_meta = {name for name, tensor in model.named_parameters() if tensor.is_meta}
    names = [key for key in kept if key in on_meta]
    if names and hasattr(model, "start_afresh"):
        model.start_afresh(names)  # type: ignore[operator]


def _set_epsilon(model: nn.Module, source: Source) -> None:
    norm, eps = getattr(model, "ln_vision_backbone", None), source.settings.get("layer_norm_eps")
    if isinstance(norm, nn.LayerNorm) and isinstance(eps, float) and eps != norm.eps:
        text = f"ln_vision_backbone: epsilon {eps:g}, which {source.name} was trained with, instead of {norm.eps:g}"
        print_log(text, logger="current", level=logging.INFO)
        norm.eps = eps


# ----- tied weights -----


def _tied_parameters(model: nn.Module) -> list[list[str]]:
    """Groups of names that share one parameter."""
    groups: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups[id(parameter)].append(name)
    return [names for names in groups.values() if len(names) > 1]


def _check_tied(state: dict[str, Tensor], tied: list[list[str]], source: str) -> None:
    for names in tied:
        first, *others = [name for name in names if name in state] or [""]
        for other in others:
            if state[first] is not state[other] and not torch.equal(state[first], state[other]):
                raise CheckpointError(
                    f"checkpoint {source}: {first} and {other} differ, but are one and the same in this model; "
                    f"{_UNTIE.get(first.partition('.')[0], 'it cannot hold weights of a model that was not tied')}"
                )
            release(state[other])
            release(state[first])


def _complete_tied(state: dict[str, Tensor], own: dict[str, Tensor], tied: list[list[str]]) -> None:
    """Files often hold a tied weight once; the other names get the same tensor."""
    for names in tied:
        present = [name for name in names if name in state]
        for name in names:
            if present and name in own:
                state.setdefault(name, state[present[0]])


def _tie_again(model: nn.Module, tied: list[list[str]]) -> None:
    for first, *others in tied:
        for name in others:
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, model.get_parameter(first))


# ----- the language model -----


def _lacks_language_model(state: Iterable[str], missing: list[str]) -> bool:
    needed = any(key.startswith(LANGUAGE_MODEL) for key in missing)
    return needed and not any(key.startswith(LANGUAGE_MODEL) for key in state)


def _folder_of_language_model(model: nn.Module, source: str) -> Path:
    name = getattr(model.text_backbone, "name_or_path", None)
    if not name:
        raise CheckpointError(
            f"checkpoint {source} holds no language model ({LANGUAGE_MODEL}*), and the model's text_backbone has no "
            "name_or_path to load one from: save with include_language_model=True, or set name_or_path"
        )
    return language_model_folder(name)


def _check_nothing_on_meta(model: nn.Module, source: str, place: Place) -> None:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    left = [name for name, tensor in tensors if tensor.is_meta and device_of(name, place) != "disk"]
    if left:
        raise CheckpointError(
            f"{', '.join(left[:_SHOWN])} are in no checkpoint and still on 'meta' after loading {source}: build those "
            "parts on a real device"
        )


# ----- errors -----


def _shape_differs(key: str, value: Tensor, own: Tensor) -> bool:
    return value.shape != own.shape and not key.endswith(RESIZED_AT_LOAD)


def _mismatch(
    model: nn.Module,
    source: str,
    state: dict[str, Tensor],
    own: dict[str, Tensor],
    missing: list[str],
    unexpected: list[str],
    wrong: list[str],
) -> str:
    lines = [f"checkpoint {source} does not fit {type(model).__name__}:"]
    if unexpected:
        lines.append(f"  {len(unexpected)} unknown keys: {_first(unexpected, lambda key: _unknown(key, missing))}")
    if missing:
        lines.append(f"  {len(missing)} missing keys: {_first(missing)}")
    if wrong:
        lines.append(
            f"  {len(wrong)} keys of a wrong shape: "
            + _first(wrong, lambda key: f"{key} is {_shape(state[key])} in the file, {_shape(own[key])} in the model")
        )
    if not any(key in own for key in state) and (unknown := unknown_format(state)):
        lines.append(f"It is of an {unknown}")
    else:
        lines.append(_vocabulary(state, wrong) or "Is it the checkpoint of another config?")
    return "\n".join(lines)


def _unknown(key: str, missing: list[str]) -> str:
    close = nearest(key, missing[:200], count=1, cutoff=0.9)
    return f"{key} (the model lacks {close[0]})" if close else key


def _first(keys: list[str], show=str) -> str:
    text = ", ".join(show(key) for key in keys[:_SHOWN])
    return f"{text} …" if len(keys) > _SHOWN else text


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _vocabulary(state: dict[str, Tensor], wrong: list[str]) -> str:
    """A hint where nothing but the number of words differs."""
    words = [key for key in wrong if key.startswith(LANGUAGE_MODEL) and key.endswith(_WORDS)]
    if not words or len(words) < len(wrong):
        return ""
    return f"Only the number of words differs: build the model with text_backbone.vocab_size={len(state[words[0]])}."
