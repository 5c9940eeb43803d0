"""Loading the weight files of a local Hugging Face folder."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from blip2.checkpoints.folder import weight_files
from blip2.checkpoints.mapped import taken
from blip2.checkpoints.read import CheckpointError, read_state_dict
from blip2.utils.resources import resolve_resource


def load_hf_weights(lm: nn.Module, folder: str | Path, tied: Sequence[str], unused: Sequence[str] = ()) -> None:
    """Copy the tensors of a local Hugging Face folder into a language model, file by file, strictly.

    Of the keys in `tied`, which share one tensor, one is enough; those in `unused` are passed over. A model on the
    ``meta`` device takes the tensors over.

    Raises FileNotFoundError where there are no weights, CheckpointError that names missing, unknown or misshapen keys.
    """
    wanted = lm.state_dict()
    seen: set[str] = set()
    problems: list[str] = []
    on_meta = any(p.is_meta for p in lm.parameters())
    for shard in read_shards(folder):
        # Old files of OPT's base model alone lack the leading `model.`.
        named = {f"model.{key}" if f"model.{key}" in wanted else key: value for key, value in shard.items()}
        state: dict[str, Tensor] = {}
        for key, value in named.items():
            if key in unused:
                continue
            if key not in wanted:
                problems.append(f"unknown key {key}")
            elif value.shape != wanted[key].shape:
                problems.append(f"{key} is {tuple(value.shape)}, wanted {tuple(wanted[key].shape)}")
            else:
                state[key] = taken(value, wanted[key].dtype) if on_meta else value  # otherwise copied, and cast so
        lm.load_state_dict(state, strict=False, assign=on_meta)
        seen.update(named)
    missing = wanted.keys() - seen - (set(tied) if seen & set(tied) else set())
    problems += [f"missing key {key}" for key in sorted(missing)]
    if problems:
        shown = "; ".join(problems[:10]) + ("; …" if len(problems) > 10 else "")
        raise CheckpointError(f"{folder} does not fit this {type(lm).__name__}: {shown}")


def keep_tied(lm: nn.Module, names: Sequence[str]) -> None:
    """Let a state dict hold one of the tied parameters `names` alone, and tie them again after it is loaded.

    ``load_state_dict(assign=True)`` would leave each name a parameter of its own; the model's `tie_weights` joins them.
    """
    lm.register_load_state_dict_pre_hook(partial(_complete_tied, names))
    lm.register_load_state_dict_post_hook(_tie_again)


def _complete_tied(names: Sequence[str], _: nn.Module, state_dict: dict[str, Tensor], prefix: str, *__: Any) -> None:
    present = [name for name in names if prefix + name in state_dict]
    for name in names if present else ():
        state_dict.setdefault(prefix + name, state_dict[prefix + present[0]])


def _tie_again(lm: Any, _: object) -> None:
    lm.tie_weights()


def read_shards(folder: str | Path) -> Iterator[dict[str, Tensor]]:
    """The tensors of a local folder, file by file; safetensors are preferred.

    Raises FileNotFoundError that names what was looked for, CheckpointError for a damaged file or a pickle that would
    run code.
    """
    for file in weight_files(resolve_resource(folder)):
        yield read_state_dict(file)
