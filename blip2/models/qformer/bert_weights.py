"""A Q-Former's start: the weights of BERT (arXiv 2301.12597, section 3.1)."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from blip2.checkpoints import CheckpointError
from blip2.models.language.weights import read_shards

# In the file → here. Old files have TensorFlow's names of a norm's weights.
_RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
# Here → in the file: the queries' feed-forward networks start as copies of the text's.
_COPIED = {".intermediate_query.": ".intermediate.", ".output_query.": ".output."}
# What BERT has no weights for: they keep their random start.
_NEW = ".crossattention."
# Tables with a row for each word; BLIP-2 adds words, whose rows keep their random start.
_WORDS = ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias")


def load_bert(qformer: nn.Module, folder: str | Path) -> None:
    """Copy a BERT from a local Hugging Face folder (``google-bert/bert-base-uncased``) into a Q-Former.

    Self-attention, embeddings, norms and LM head are BERT's, the feed-forward networks serve text and queries alike,
    cross-attention stays random. BERT's token types, its pooler and its next-sentence head have no place here; without
    the text branch neither have its words.

    Raises `FileNotFoundError` where there are no weights, `CheckpointError` that names missing or misshapen keys; then
    nothing is changed.
    """
    given = _own_names({key: value for shard in read_shards(folder) for key, value in shard.items()})
    wanted = {name: parameter for name, parameter in qformer.named_parameters() if _NEW not in name}
    sources = {name: _source_of(name) for name in wanted}
    problems = [f"missing key {source}" for source in dict.fromkeys(sources.values()) if source not in given]
    problems += [
        f"{source} is {tuple(given[source].shape)}, wanted {tuple(wanted[name].shape)}"
        for name, source in sources.items()
        if source in given and not _fits(name, given[source], wanted[name])
    ]
    if problems:
        shown = "; ".join(problems[:10]) + ("; …" if len(problems) > 10 else "")
        raise CheckpointError(f"the BERT in {folder} does not fit this Q-Former: {shown}")
    with torch.no_grad():
        for name, parameter in wanted.items():
            tensor = given[sources[name]]
            parameter[: len(tensor)].copy_(tensor)


def _own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors under this package's names; files of the bare encoder lack the leading ``bert.``."""
    bare = not any(key.startswith("bert.") for key in state)
    names = {}
    for key, tensor in state.items():
        for old, new in _RENAMED.items():
            key = key.removesuffix(old) + new if key.endswith(old) else key
        names[f"bert.{key}" if bare and not key.startswith("cls.") else key] = tensor
    return names


def _source_of(name: str) -> str:
    for copy, source in _COPIED.items():
        name = name.replace(copy, source)
    return name


def _fits(name: str, given: Tensor, wanted: Tensor) -> bool:
    if name in _WORDS:
        return given.shape[1:] == wanted.shape[1:] and len(given) <= len(wanted)
    return given.shape == wanted.shape
