"""Tokenizers of transformers, loaded when first used.

Building one reads no file, so a model can be built where no tokenizer is at hand (on the ``meta`` device, for
instance). Nothing here changes a tokenizer's state after it is loaded: padding is done by `pad_sequences`, on either
side.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from blip2.registry import TOKENIZER
from blip2.utils.resources import resolve_resource


class LazyTokenizer:
    """The parent of the registered tokenizers.

    Args:
        name_or_path: a Hugging Face name, or a folder (a relative one may lie below the resources).
    """

    loader = "AutoTokenizer"

    def __init__(self, name_or_path: str) -> None:
        self.name_or_path = str(name_or_path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name_or_path!r})"

    @cached_property
    def backend(self) -> Any:
        """The tokenizer of transformers, loaded now if it was not before.

        Raises FileNotFoundError if its files are neither in a folder, nor in the Hugging Face cache, nor to be had from
        the hub; ValueError if it comes back without a vocabulary, as transformers' do when files are missing.
        """
        import transformers  # takes over a second

        folder = resolve_resource(self.name_or_path)
        if folder.is_dir() and not (folder / "tokenizer_config.json").is_file():
            raise FileNotFoundError(
                f"{folder} has no tokenizer_config.json, without which special tokens (such as OPT's leading </s>) are "
                "lost; save the tokenizer there with save_pretrained, or copy the file from where its vocabulary is"
            )
        try:
            backend = self._load(transformers, str(folder) if folder.is_dir() else self.name_or_path)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(f"{self._not_found()} ({str(error).splitlines()[0]})") from error
        if set(backend.get_vocab()) <= set(backend.all_special_tokens):
            raise ValueError(
                f"{self._not_found()} (transformers returned one that knows only {sorted(backend.get_vocab())})"
            )
        return backend

    def _load(self, transformers: Any, name_or_path: str) -> Any:
        return getattr(transformers, self.loader).from_pretrained(name_or_path)

    def _not_found(self) -> str:
        name = self.name_or_path
        return (
            f"the tokenizer {name!r} is no folder here, and neither in the Hugging Face cache nor on a hub in reach. "
            "Fetch its files once where there is a network, with HF_HUB_OFFLINE unset: `blip2 download MODEL` fetches "
            "them with the model's weights, or "
            f"python -c \"import transformers; transformers.{self.loader}.from_pretrained('{name}')\"; "
            "or give the path of a folder with the tokenizer's files"
        )

    def __len__(self) -> int:
        return len(self.backend)

    @property
    def pad_token_id(self) -> int | None:
        return self.backend.pad_token_id

    @property
    def bos_token_id(self) -> int | None:
        return self.backend.bos_token_id

    def encode(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """Token ids of each text, not padded; special tokens as the tokenizer's own files say (OPT: ``</s>`` first)."""
        # Not verbose: the models check lengths, and transformers would warn of every text beyond the tokenizer's limit.
        return self.backend(list(texts), add_special_tokens=add_special_tokens, verbose=False).input_ids

    def decode(self, sequences: Sequence[Sequence[int]] | Tensor) -> list[str]:
        """The texts of token ids, special tokens left out."""
        return self.backend.batch_decode(sequences, skip_special_tokens=True)

    def token_id(self, text: str) -> int:
        """The id of a text that is one token; raises ValueError if it is not."""
        (ids,) = self.encode([text], add_special_tokens=False)
        unknown = ids[:1] == [self.backend.unk_token_id] and text != self.backend.unk_token
        if len(ids) != 1 or unknown:
            raise ValueError(f"{text!r} is not one token of the tokenizer {self.name_or_path!r}, but {ids}")
        return ids[0]


@TOKENIZER.register_module()
class AutoTokenizer(LazyTokenizer):
    """Whatever tokenizer the files of `name_or_path` are for.

    Args:
        name_or_path: a Hugging Face name, or a folder (a relative one may lie below the resources).
        use_fast: handed on to transformers, which since version 5 knows one kind only.
    """

    def __init__(self, name_or_path: str, use_fast: bool = True) -> None:
        super().__init__(name_or_path)
        self.use_fast = use_fast

    def _load(self, transformers: Any, name_or_path: str) -> Any:
        return transformers.AutoTokenizer.from_pretrained(name_or_path, use_fast=self.use_fast)


@TOKENIZER.register_module()
class Blip2Tokenizer(LazyTokenizer):
    """BERT's tokenizer with ``[DEC]`` as an additional token: the begin-of-text token of BLIP-2's own language
    modelling.

    With the vocabulary of bert-base-uncased, ``[DEC]`` is 30522 and the length 30523. `encode` puts ``[CLS]`` first, as
    BERT does.
    """

    loader = "BertTokenizer"

    def _load(self, transformers: Any, name_or_path: str) -> Any:
        backend = transformers.BertTokenizer.from_pretrained(name_or_path)
        if not set(backend.get_vocab()) <= set(backend.all_special_tokens):
            backend.add_special_tokens({"bos_token": "[DEC]"})
        return backend


def pad_sequences(
    sequences: Sequence[Sequence[int]],
    pad_token_id: int,
    side: Literal["left", "right"],
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Ids B×T padded on one side to the longest, and the mask B×T, 1 at tokens and 0 at padding."""
    length = max(map(len, sequences))
    ids = torch.full((len(sequences), length), pad_token_id)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        place = slice(length - len(sequence), length) if side == "left" else slice(0, len(sequence))
        ids[row, place] = torch.tensor(sequence, dtype=torch.long)
        mask[row, place] = 1
    return ids.to(device), mask.to(device)
