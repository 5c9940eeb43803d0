"""Transforms of the text."""

import re
import string
from collections.abc import Sequence

from mmcv.transforms import BaseTransform

from blip2.registry import TRANSFORMS


@TRANSFORMS.register_module()
class CleanCaption(BaseTransform):
    """Takes punctuation and capitals out of captions or questions, exactly as mmpretrain does.

    Its quirks are kept, because published scores were measured with them: the '?' of a question goes too (LAVIS keeps
    it); outer space is stripped *before* characters are removed, so that 'a cat .' keeps a space at its end; only runs
    of two or more white-space characters become one space, so that a single tab or line break stays; a removed
    character leaves nothing in its place ('t-shirt' → 'tshirt').

    Args:
        keys: one key or several, each holding a string or a list of strings.
        remove_chars: characters to remove, ASCII punctuation by default.
        lowercase, remove_dup_space, strip: the other steps, each can be switched off.

    Raises:
        KeyError: a key is missing in the sample.
        TypeError: a value is neither text nor a list of texts.
    """

    def __init__(
        self,
        keys: str | Sequence[str] = "gt_caption",
        remove_chars: str = string.punctuation,
        lowercase: bool = True,
        remove_dup_space: bool = True,
        strip: bool = True,
    ) -> None:
        self.keys = [keys] if isinstance(keys, str) else list(keys)
        self.remove_chars = remove_chars
        self.lowercase = lowercase
        self.remove_dup_space = remove_dup_space
        self.strip = strip
        self._removal = str.maketrans("", "", remove_chars)

    def clean(self, text: str | Sequence[str]) -> str | list[str]:
        """`text` cleaned, or each text of a list."""
        if isinstance(text, str):
            return self._clean_one(text)
        if isinstance(text, Sequence) and all(isinstance(item, str) for item in text):
            return [self._clean_one(item) for item in text]
        raise TypeError(f"CleanCaption takes a text or a list of texts, not {text!r}")

    def _clean_one(self, text: str) -> str:
        text = text.strip() if self.strip else text
        text = text.translate(self._removal)
        text = re.sub(r"\s{2,}", " ", text) if self.remove_dup_space else text
        return text.lower() if self.lowercase else text

    def transform(self, results: dict) -> dict:
        for key in self.keys:
            if key not in results:
                raise KeyError(f"CleanCaption(keys={self.keys}): the sample has no {key!r}, only {sorted(results)}")
            results[key] = self.clean(results[key])
        return results

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(keys={self.keys}, remove_chars={self.remove_chars!r}, lowercase={self.lowercase}, "
            f"remove_dup_space={self.remove_dup_space}, strip={self.strip})"
        )
