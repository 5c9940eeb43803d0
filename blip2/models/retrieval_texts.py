"""The texts of a retrieval model: which ones a data sample brings, and their token ids for the Q-Former."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from blip2.structures import DataSample

from .draw import drawn
from .language.tokenizers import pad_sequences

# How many texts are matched with one picture at a time, by the kind of device: those of similar length go together, so
# that few are padded much; a GPU wants larger groups.
TEXTS = {"cpu": 64}
TEXTS_ELSEWHERE = 256


def texts_of(sample: DataSample) -> list[str]:
    """The sample's ``text``, else its ``gt_caption``: one or a list of them, or none."""
    text = sample.get("text", sample.get("gt_caption"))
    return [text] if isinstance(text, str) else list(text or ())


def texts_to_learn(sample: DataSample, count: int | Literal["all"], at_random: bool) -> list[str]:
    """`count` of the sample's texts, see `drawn`; raises ValueError if there is none, or an empty one."""
    texts = texts_of(sample)
    if not texts or not all(text.strip() for text in texts):
        raise ValueError(
            f"the picture {sample.get('img_path', sample.get('image_id', '?'))} has "
            f"{'an empty text' if texts else 'no text'} to learn from: give it one, and let PackInputs pass it on "
            "(algorithm_keys=['text'] or ['gt_caption'])"
        )
    return drawn(texts, count, at_random)


def token_ids(
    texts: Sequence[str], tokenizer: Any, max_txt_len: int, vocab_size: int, device: torch.device | str
) -> tuple[Tensor, Tensor, int]:
    """Ids and mask M×T of M texts, padded to the longest, and how many were cut to `max_txt_len` tokens.

    The last token ([SEP]) of a text that is cut stays.

    Raises:
        ValueError: no texts, an empty one, or a tokenizer that goes not with a Q-Former of `vocab_size` words.
    """
    _check_tokenizer(tokenizer, vocab_size)
    empty = [number for number, text in enumerate(texts) if not text.strip()]
    if empty or not texts:
        what = f"texts[{empty[0]}] is empty" if empty else "there is no text"
        raise ValueError(f"{what}: wanted are some words to be compared with a picture")
    ids = tokenizer.encode(texts)
    cut = [row if len(row) <= max_txt_len else [*row[: max_txt_len - 1], row[-1]] for row in ids]
    input_ids, attention_mask = pad_sequences(cut, tokenizer.pad_token_id, "right", device)
    return input_ids, attention_mask, sum(len(row) > max_txt_len for row in ids)


def trimmed(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and mask without the columns that are padding in all rows."""
    length = int(mask.sum(1).max())
    return ids[:, :length], mask[:, :length]


def _check_tokenizer(tokenizer: Any, vocab_size: int) -> None:
    if tokenizer is None:
        raise ValueError(
            "Blip2Retrieval was built without a tokenizer: give it one (tokenizer=dict(type='Blip2Tokenizer', …))"
        )
    if len(tokenizer) > vocab_size:
        raise ValueError(
            f"{tokenizer!r} has {len(tokenizer)} tokens, the Q-Former only {vocab_size} (vocab_size): the two don't "
            "belong together"
        )
    if tokenizer.bos_token_id is None:
        raise ValueError(f"{tokenizer!r} has no [DEC] token to begin a text with: use a Blip2Tokenizer")
