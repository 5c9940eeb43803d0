"""Loading weights into a model: every key and shape accounted for, or an error that names them."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from blip2.checkpoints.fetch import fetch, language_model_folder
from blip2.checkpoints.read import CheckpointError, read_state_dict
from blip2.checkpoints.save import LANGUAGE_MODEL
from blip2.utils.suggest import nearest

# Tables that a vision encoder resizes to its own grid in its load hook.
RESIZED_AT_LOAD = ("pos_embed",)
_SHOWN = 5
_FOREIGN = {
    "Qformer.": "a LAVIS file",
    "visual_encoder.": "a LAVIS file",
    "language_projection.": "a Hugging Face file",
    "vision_model.": "a Hugging Face file",
}


@dataclass(frozen=True)
class LoadResult:
    """What `load_checkpoint` did: keys left as they were, keys not used, and where a language model came from."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    language_model: Path | None = None


def load_checkpoint(
    model: nn.Module,
    source: str | Path,
    *,
    map_location: str | torch.device = "cpu",
    strict: bool = True,
    allow_missing_language_model: bool = True,
) -> LoadResult:
    """Load the file, resource or address `source` (see `fetch`) into `model`, cast to the model's types.

    A file without any ``text_backbone.*`` (the published ones) is completed from the language model's own
    `name_or_path`, unless `allow_missing_language_model` is off. A model on the ``meta`` device takes the tensors
    over. `strict=False` reports missing and unknown keys instead of raising; a wrong shape always raises.

    Raises `CheckpointError` before anything is changed (only a position table that cannot be resized is found out
    later), `FileNotFoundError` for a missing file.
    """
    state = read_state_dict(fetch(source), map_location)
    own = model.state_dict()
    tied = _tied_parameters(model)
    _complete_tied(state, own, tied)
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    folder = None
    if allow_missing_language_model and _lacks_language_model(state, missing):
        folder = _folder_of_language_model(model, source)
        missing = [key for key in missing if not key.startswith(LANGUAGE_MODEL)]
    wrong = [key for key in state if key in own and _shape_differs(key, state[key], own[key])]
    if wrong or (strict and (missing or unexpected)):
        raise CheckpointError(_mismatch(model, source, state, own, missing, unexpected, wrong))
    _load(model, {key: value for key, value in state.items() if key in own}, own, tied, source)
    if folder is not None:
        _load_language_model(model, folder)
    if strict:
        _check_nothing_on_meta(model, source)
    return LoadResult(tuple(missing), tuple(unexpected), folder)


def _load(
    model: nn.Module, state: dict[str, Tensor], own: dict[str, Tensor], tied: list[list[str]], source: str | Path
) -> None:
    on_meta = any(tensor.is_meta for tensor in own.values())
    if on_meta:
        # Assignment takes a tensor as it is, so type and device are settled here.
        state = {key: _like(value, own[key]) for key, value in state.items()}
    try:
        model.load_state_dict(state, strict=False, assign=on_meta)
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint {source} does not fit {type(model).__name__}: {error}") from error
    if on_meta:
        _tie_again(model, tied)


def _like(value: Tensor, own: Tensor) -> Tensor:
    device = value.device if own.is_meta else own.device
    # A copy, since `value` may be a window on a file that somebody writes to later.
    return value.to(device, own.dtype if own.is_floating_point() else None, copy=True)


# ----- tied weights -----


def _tied_parameters(model: nn.Module) -> list[list[str]]:
    """Groups of names that share one parameter."""
    groups: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups[id(parameter)].append(name)
    return [names for names in groups.values() if len(names) > 1]


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


def _folder_of_language_model(model: nn.Module, source: str | Path) -> Path:
    name = getattr(model.text_backbone, "name_or_path", None)
    if not name:
        raise CheckpointError(
            f"checkpoint {source} holds no language model ({LANGUAGE_MODEL}*), and the model's text_backbone has no "
            "name_or_path to load one from: save with include_language_model=True, or set name_or_path"
        )
    return language_model_folder(name)


def _load_language_model(model: nn.Module, folder: Path) -> None:
    language_model = model.text_backbone
    assert isinstance(language_model, nn.Module)
    if any(parameter.is_meta for parameter in language_model.parameters()):
        language_model.to_empty(device="cpu")
    # OPTForCausalLM ties its head to its embeddings again when it is done.
    language_model.load_pretrained(folder)  # type: ignore[operator]


def _check_nothing_on_meta(model: nn.Module, source: str | Path) -> None:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    left = [name for name, tensor in tensors if tensor.is_meta]
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
    source: str | Path,
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
    foreign = {kind for prefix, kind in _FOREIGN.items() if any(key.startswith(prefix) for key in unexpected)}
    if foreign:
        lines.append(f"It looks like {' or '.join(sorted(foreign))}: convert it to this package's keys first.")
    else:
        lines.append("Is it the checkpoint of another config?")
    return "\n".join(lines)


def _unknown(key: str, missing: list[str]) -> str:
    close = nearest(key, missing[:200], count=1, cutoff=0.9)
    return f"{key} (the model lacks {close[0]})" if close else key


def _first(keys: list[str], show=str) -> str:
    text = ", ".join(show(key) for key in keys[:_SHOWN])
    return f"{text} …" if len(keys) > _SHOWN else text


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
