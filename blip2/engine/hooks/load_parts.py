"""Starts sub-modules from the checkpoints of earlier training stages, or from published weights of their own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from blip2.checkpoints import CheckpointError, fetch, read_state_dict
from blip2.checkpoints.convert import to_ours
from blip2.checkpoints.fetch import language_model_folder
from blip2.checkpoints.folder import is_weight_folder, read_folder
from blip2.checkpoints.load import RESIZED_AT_LOAD
from blip2.checkpoints.tables import POSITION_IDS
from blip2.engine.checkpoint_files import find_checkpoint
from blip2.registry import HOOKS
from blip2.utils.resources import resolve_resource
from blip2.utils.suggest import did_you_mean


@HOOKS.register_module()
class LoadParts(Hook):
    """Loads parts of the model, each from a file of its own, before training starts or resumes.

    From the checkpoint at ``parts['vision_backbone']`` come exactly the keys below ``vision_backbone.``, strictly: a
    key too many, a key too few or another shape is an error (position embeddings of an image encoder are resized to its
    grid). On resuming, the checkpoint that is resumed comes afterwards and wins, so that a part which trains on keeps
    what it learned; a frozen language model that was left out of that checkpoint comes from here.

    In a config, as stage 2 of BLIP-2's pre-training starts::

        custom_hooks = [
            dict(
                type='LoadParts',
                pretrained=dict(text_backbone='facebook/opt-2.7b'),
                parts=dict(vision_backbone='work_dirs/stage1', multimodal_backbone='work_dirs/stage1'),
                allow_unused=['multimodal_backbone'],
            )
        ]

    Args:
        parts: name of a sub-module or parameter (dotted names go deeper) → checkpoint of any publisher (a file, its
            address, a Hugging Face folder; LAVIS's image encoders too), or work folder of the stage that trained it:
            its best checkpoint is taken, or its latest where none is marked best. Of a list of them, each brings the
            keys that it has, and the later ones win.
        pretrained: name of a sub-module that has a method ``load_pretrained`` (language models; a Q-Former, which
            starts from BERT) → Hugging Face's name of the weights, or a folder with them. These come first.
        allow_unused: names from `parts` whose files may hold keys that the model has no place for, such as the text
            branch of stage 1's Q-Former, which stage 2 has no use for. They are counted in the log.
    """

    priority = "VERY_HIGH"

    def __init__(
        self,
        parts: Mapping[str, str | Sequence[str]] | None = None,
        pretrained: Mapping[str, str] | None = None,
        allow_unused: Sequence[str] = (),
    ) -> None:
        for name, value in (("parts", parts), ("pretrained", pretrained)):
            if value is not None and not isinstance(value, Mapping):
                raise TypeError(f"LoadParts wants {name}=dict(<sub-module>='<checkpoint>', …), got {value!r}")
        if not parts and not pretrained:
            raise TypeError("LoadParts wants parts=dict(<sub-module>='<checkpoint>', …) or pretrained=dict(…)")
        self.parts = {name: [files] if isinstance(files, str) else list(files) for name, files in (parts or {}).items()}
        self.pretrained = dict(pretrained or {})
        self.allow_unused = list(allow_unused)
        for name in self.allow_unused:
            if name not in self.parts:
                raise ValueError(f"LoadParts: allow_unused names {name!r}.{did_you_mean(name, self.parts)}")

    def before_load_or_resume(self, runner: Any) -> None:
        """Called by this package's runner after the weights' initialisation and before ``load_from`` or ``resume``."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for name, source in self.pretrained.items():
            load_pretrained_part(model, name, source)
            runner.logger.info(f"LoadParts: {name} from {source}")
        for name, paths in self.parts.items():
            files = [_file_of(path) for path in paths]
            text = " and ".join(map(str, files))
            state = _merged(name, files)
            count, unused = load_part(model, name, state, text, allow_unused=name in self.allow_unused)
            left = f"; {len(unused)} keys have no place here: {_some(unused)}" if unused else ""
            runner.logger.info(f"LoadParts: {name} from {text} ({count} tensors){left}")


def load_pretrained_part(model: nn.Module, name: str, source: str) -> None:
    """Lets the part `name` of `model` load the weights called `source` in its own way.

    Raises `CheckpointError` where the part cannot do that, or where the weights are not to be had.
    """
    _check_part(model, name)
    part: Any = model.get_submodule(name)
    if not hasattr(part, "load_pretrained"):
        raise CheckpointError(
            f"LoadParts: {name} is a {type(part).__name__}, which has no published weights of its own to load: name a "
            "checkpoint in `parts`"
        )
    try:
        part.load_pretrained(language_model_folder(source))
    except CheckpointError as error:
        raise CheckpointError(f"LoadParts: {name} from {source!r}: {error}") from error


def load_part(
    model: nn.Module, name: str, state_dict: Mapping[str, Tensor], source: str, *, allow_unused: bool = False
) -> tuple[int, list[str]]:
    """Copies the tensors below ``name.`` (or called `name`) into `model`; returns how many, and the keys left over.

    Raises `CheckpointError` that names the keys when they do not fit one to one; with `allow_unused`, there may be more
    of them than the model has.
    """
    _check_part(model, name)
    wanted = _below(model.state_dict(), name)
    given = _below(state_dict, name)
    if not given:
        tops = sorted({key.split(".")[0] for key in state_dict})
        raise CheckpointError(f"LoadParts: {source} has no key below {name!r}; its keys begin with: {', '.join(tops)}")
    counts = {key: tensor for key, tensor in wanted.items() if key.endswith(POSITION_IDS)}  # from 0, in any model
    given = counts | given
    missing = [key for key in wanted if key not in given]
    unknown = [key for key in given if key not in wanted]
    if missing or (unknown and not allow_unused):
        raise CheckpointError(
            f"LoadParts: {source} does not fit {name!r} of the model; missing in the file: {_some(missing)}; "
            f"unknown to the model: {_some(unknown)}"
        )
    used = {key: tensor for key, tensor in given.items() if key in wanted}
    for key, tensor in used.items():
        if tensor.shape != wanted[key].shape and not key.endswith(RESIZED_AT_LOAD):
            raise CheckpointError(
                f"LoadParts: {key} is {tuple(tensor.shape)} in {source}, but {tuple(wanted[key].shape)} in the model"
            )
    _copy(model, name, used, source)
    return len(used), unknown


def _copy(model: nn.Module, name: str, tensors: dict[str, Tensor], source: str) -> None:
    if name in tensors:  # a parameter, not a module
        with torch.no_grad():
            model.state_dict()[name].copy_(tensors[name])
        return
    try:  # through the part's own load hooks
        model.get_submodule(name).load_state_dict({key[len(name) + 1 :]: tensor for key, tensor in tensors.items()})
    except RuntimeError as error:
        raise CheckpointError(f"LoadParts: {source} does not fit {name!r} of the model: {error}") from error


def _merged(name: str, files: Sequence[Path]) -> dict[str, Tensor]:
    """The tensors below `name` of all files, the later ones' over the earlier ones'; all keys of a single file."""
    if len(files) == 1:
        return _tensors_of(name, files[0])
    return {key: tensor for file in files for key, tensor in _below(_tensors_of(name, file), name).items()}


def _tensors_of(name: str, file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, under our keys where its own have nothing below `name`."""
    tensors = read_folder(file) if file.is_dir() else read_state_dict(file)
    if _below(tensors, name):
        return tensors
    try:
        return to_ours(tensors, str(file))[1].tensors
    except CheckpointError as error:
        raise CheckpointError(
            f"LoadParts: {file} has no key below {name!r}, and cannot be converted: {error}"
        ) from error


def _file_of(path: str) -> Path:
    found = fetch(path) if "://" in path else resolve_resource(path)
    return found if is_weight_folder(found) else find_checkpoint(found)


def _check_part(model: nn.Module, name: str) -> None:
    if not _below(model.state_dict(), name):
        choices = [child for child, _ in model.named_modules() if child] + [key for key, _ in model.named_parameters()]
        raise CheckpointError(f"LoadParts: the model has no part {name!r}.{did_you_mean(name, choices)}")


def _below(state_dict: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state_dict.items() if key == name or key.startswith(f"{name}.")}


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "") if keys else "none"
