"""Writing weights: which keys, in which type, and never a half-written file."""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from blip2.utils.resources import resolve_resource

LANGUAGE_MODEL = "text_backbone."
SUFFIXES = (".safetensors", ".pth", ".pt")

_T = TypeVar("_T")


def save_checkpoint(
    model: nn.Module,
    path: str | Path,
    *,
    include_language_model: bool | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write the weights of `model` to `path`, as safetensors or, under ``.pth``, as ``{'state_dict': …}``.

    `include_language_model`: see `saves_language_model` for the default. `dtype` converts floating-point tensors.
    The file is written beside its place and then moved there, so that an interruption leaves the old one, or none.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"checkpoint name {path.name!r} must end in one of {', '.join(SUFFIXES)}")
    state = model.state_dict()
    tensors = {
        key: _storable(state[key], dtype) for key in keys_to_save(model, include_language_model=include_language_model)
    }
    on_meta = [key for key, tensor in tensors.items() if tensor.is_meta]
    if on_meta:
        raise ValueError(f"the model has no weights yet: {on_meta[0]} and {len(on_meta) - 1} more are on 'meta'")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        if path.suffix == ".safetensors":
            save_file(_unshared(tensors), temporary, metadata={"format": "pt"})
        else:
            torch.save({"state_dict": tensors}, temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def saves_language_model(model: nn.Module) -> bool:
    """Whether a file of `model` holds ``text_backbone.*`` unless told otherwise.

    The model's own word counts first (``save_language_model = True`` or ``False``). Otherwise a language model is
    left out, as in the published files, when it is frozen and `name_or_path` is a published name
    (``facebook/opt-2.7b``): then `load_checkpoint` finds the same weights again. One that trains, that has no name,
    or that lies in a folder of this machine is saved.
    """
    stated = getattr(model, "save_language_model", None)
    if stated is not None:
        return bool(stated)
    language_model = getattr(model, "text_backbone", None)
    if not isinstance(language_model, nn.Module):
        return True
    if any(parameter.requires_grad for parameter in language_model.parameters()):
        return True
    name = str(getattr(language_model, "name_or_path", None) or "")
    published = re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not resolve_resource(name).is_dir()
    return not published


def keys_to_save(model: nn.Module, *, include_language_model: bool | None = None) -> list[str]:
    """The keys of ``model.state_dict()`` that belong into a file, in its order."""
    if include_language_model is None:
        include_language_model = saves_language_model(model)
    return [key for key in model.state_dict() if include_language_model or not key.startswith(LANGUAGE_MODEL)]


def drop_frozen_language_model(state_dict: Mapping[str, _T], model: nn.Module) -> dict[str, _T]:
    """`state_dict` without ``text_backbone.*`` where `saves_language_model` says so; for a training hook.

    `model` may be wrapped for data-parallel training.
    """
    inner = getattr(model, "module", model)
    keep_all = saves_language_model(inner)
    return {key: value for key, value in state_dict.items() if keep_all or not key.startswith(LANGUAGE_MODEL)}


def _storable(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach()
    if dtype is not None and tensor.is_floating_point():
        tensor = tensor.to(dtype)
    return tensor.cpu().contiguous() if not tensor.is_meta else tensor


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies where tensors share memory (tied weights), which safetensors refuses to write."""
    seen: set[int] = set()
    unshared = {}
    for key, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        unshared[key] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return unshared


def _umask() -> int:
    # It can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
