"""Several texts of one picture in one row, so that what they all continue is computed once.

Letters: B pictures, T packed tokens, Q prefix positions (queries) before them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100


@dataclass
class PackedTexts:
    """The texts of B pictures, row by row, one text after another, padded on the right.

    Attributes:
        ids: B×T tokens.
        texts: B×T, which of the row's texts a token belongs to, from 0; -1 at padding.
        positions: B×T, place of a token in its text, from 0; 0 at padding.
        targets: B×T, the token where it is to be learned, `IGNORED` elsewhere.
        longest: tokens of the longest text.
    """

    ids: Tensor
    texts: Tensor
    positions: Tensor
    targets: Tensor
    longest: int

    def attention(self, prefix: int) -> tuple[Tensor | None, Tensor]:
        """Mask bool B×S×S and positions B×S for S = `prefix` + T: a text sees the prefix and its own past, no other
        text.

        The mask is None where the plain causal pattern does: one text in each row.
        """
        rows, device = len(self.ids), self.ids.device
        places = torch.arange(prefix, device=device).expand(rows, -1)
        positions = torch.cat((places, prefix + self.positions), 1)
        if bool((self.texts <= 0).all()):
            return None, positions
        owner = torch.cat((torch.full_like(places, -2), self.texts), 1)
        same = owner[:, :, None] == owner[:, None, :]
        in_prefix = (owner == -2)[:, None, :]
        length = owner.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        return causal & (same | in_prefix), positions

    def predictors(self, prefix: int) -> tuple[Tensor, Tensor, Tensor]:
        """Row and place of each hidden state that predicts a target, and that target: three vectors."""
        rows, places = (self.targets != IGNORED).nonzero(as_tuple=True)
        before = torch.where(self.positions[rows, places] == 0, prefix - 1, prefix + places - 1)
        return rows, before, self.targets[rows, places]


def pack_texts(
    texts: Sequence[Sequence[tuple[Sequence[int], int]]], pad_token_id: int, device: torch.device | str
) -> PackedTexts:
    """Pack, for each picture, texts of token ids; the number with each says how many leading tokens are not to be
    learned.
    """
    length = max(sum(len(text) for text, _ in row) for row in texts)
    shape = (len(texts), length)
    ids, numbers, targets = (torch.full(shape, value) for value in (pad_token_id, -1, IGNORED))
    positions = torch.zeros(shape, dtype=torch.long)
    for row, row_texts in enumerate(texts):
        start = 0
        for number, (text, given) in enumerate(row_texts):
            end = start + len(text)
            tokens = torch.tensor(text, dtype=torch.long)
            ids[row, start:end] = tokens
            numbers[row, start:end] = number
            positions[row, start:end] = torch.arange(len(text))
            targets[row, start + given : end] = tokens[given:]
            start = end
    longest = max(len(text) for row in texts for text, _ in row)
    return PackedTexts(ids.to(device), numbers.to(device), positions.to(device), targets.to(device), longest)
