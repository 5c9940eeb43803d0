"""Writing weights: which keys, in which type, and never a half-written file."""

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from blip2.checkpoints.compact import from_int8, shared_metadata, to_int8
from blip2.checkpoints.read import read_state_dict
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
    shared: str | Path | None = None,
    only: Sequence[str] = (),
) -> Path:
    """Write the weights of `model` to `path`, as safetensors or, under ``.pth``, as ``{'state_dict': …}``.

    `include_language_model`: see `saves_language_model` for the default. `dtype` converts floating-point tensors;
    ``torch.int8`` stores matrices in eight bits (safetensors only, see `blip2.checkpoints.compact`). `shared` names a
    safetensors file of parts (such as frozen ones) that will lie beside this one: they are left out, and read from
    there. `only` keeps the parts of these names alone. The file is written beside its place and then moved there, so
    that an interruption leaves the old one, or none.

    Raises ValueError if a weight is not the one in `shared`, as far as its precision goes.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"checkpoint name {path.name!r} must end in one of {', '.join(SUFFIXES)}")
    if path.suffix != ".safetensors" and (shared is not None or dtype == torch.int8):
        raise ValueError(f"eight bits and shared parts are for .safetensors, not for {path.name!r}")
    state = model.state_dict()
    tensors = {
        key: _storable(state[key], None if dtype == torch.int8 else dtype)
        for key in keys_to_save(model, include_language_model=include_language_model)
    }
    if only:
        tensors = {key: tensor for key, tensor in tensors.items() if key.split(".")[0] in only}
    metadata = {"format": "pt"}
    if shared is not None:
        beginnings = _take_shared(tensors, Path(shared), dtype)
        metadata |= shared_metadata({Path(shared).name: beginnings})
    on_meta = [key for key, tensor in tensors.items() if tensor.is_meta]
    if on_meta:
        raise ValueError(f"the model has no weights yet: {on_meta[0]} and {len(on_meta) - 1} more are on 'meta'")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        _write(tensors, temporary, dtype, metadata)
        os.chmod(temporary, 0o666 & ~umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _write(tensors: dict[str, Tensor], path: str, dtype: torch.dtype | None, metadata: dict[str, str]) -> None:
    if not path.endswith(".safetensors"):
        torch.save({"state_dict": tensors}, path)
        return
    save_file(to_int8(_once(tensors)) if dtype == torch.int8 else _unshared(tensors), path, metadata=metadata)


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


def _take_shared(tensors: dict[str, Tensor], path: Path, dtype: torch.dtype | None) -> list[str]:
    """Remove from `tensors` what the file at `path` holds; returns the parts (first names of the keys) that it was."""
    parts = read_state_dict(path)
    beginnings = sorted({key.split(".")[0] + "." for key in parts if key in tensors})
    for key in [key for key in tensors if key.startswith(tuple(beginnings))]:
        tensor = tensors.pop(key)
        if key not in parts:
            continue  # the second name of a tied weight
        kept = from_int8(to_int8({key: tensor}))[key] if dtype == torch.int8 else tensor
        if not torch.allclose(kept.float(), parts[key].float(), rtol=1e-5, atol=0):  # scales differ in the last bit
            raise ValueError(f"{key} of the model is not what {path} holds: the part was trained on, or is another one")
    return beginnings


def _once(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the second names of tied weights, which `load_checkpoint` completes."""
    first: dict[int, str] = {}
    return {key: x for key, x in tensors.items() if first.setdefault(x.untyped_storage().data_ptr(), key) == key}


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies where tensors share memory (tied weights), which safetensors refuses to write."""
    seen: set[int] = set()
    unshared = {}
    for key, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        unshared[key] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return unshared


def umask() -> int:
    # It can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
