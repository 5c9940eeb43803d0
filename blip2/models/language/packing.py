"""Several texts of one picture in one row, so that what they all continue is computed once.

Letters: B pictures, T packed tokens, Q prefix positions (queries) before them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

IGNORED = -100
_PREFIX, _PADDING = -2, -1  # segments that are no text


@dataclass(frozen=True)
class Prompted:
    """A text that is given, and the texts that may follow it, which are to be learned (all as token ids).

    Attributes:
        given: the prompt; may be empty.
        texts: what follows it.
        weights: what a token of each text counts in the loss; empty: 1.
    """

    given: Sequence[int]
    texts: Sequence[Sequence[int]]
    weights: Sequence[float] = ()

    @property
    def longest(self) -> int:
        """Tokens of the prompt and its longest text."""
        return len(self.given) + max(map(len, self.texts))


@dataclass
class PackedTexts:
    """The prompts of B pictures and the texts after them, row by row, padded on the right.

    Attributes:
        ids: B×T tokens.
        segments: B×T, which of the row's prompts and texts a token belongs to, from 0; -1 at padding.
        parents: B×T, the segment of the prompt that a text's token comes after; the own segment elsewhere.
        positions: B×T, place of a token in its prompt and text, from 0; 0 at padding.
        targets: B×T, the token where it is to be learned, `IGNORED` elsewhere.
        predictors_of: B×T, at targets the place that predicts them; -1: the last place of the prefix.
        weights: B×T, what a target counts.
        longest: tokens of the longest text with its prompt.
    """

    ids: Tensor
    segments: Tensor
    parents: Tensor
    positions: Tensor
    targets: Tensor
    predictors_of: Tensor
    weights: Tensor
    longest: int

    def attention(self, prefix: int) -> tuple[Tensor | None, Tensor]:
        """Mask bool B×S×S and positions B×S for S = `prefix` + T: a text sees the prefix, its prompt and its own past,
        no other text.

        The mask is None where the plain causal pattern does: one prompt with one text in each row.
        """
        rows, device = len(self.ids), self.ids.device
        places = torch.arange(prefix, device=device).expand(rows, -1)
        positions = torch.cat((places, prefix + self.positions), 1)
        if bool((self.segments <= 1).all()):  # a prompt is segment 0, its only text segment 1
            return None, positions
        before = torch.full_like(places, _PREFIX)
        owner, parent = torch.cat((before, self.segments), 1), torch.cat((before, self.parents), 1)
        visible = owner[:, :, None] == owner[:, None, :]
        visible |= parent[:, :, None] == owner[:, None, :]
        visible |= (owner == _PREFIX)[:, None, :]
        length = owner.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        return visible & causal, positions

    def predictors(self, prefix: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Row and place of each hidden state that predicts a target, that target, and its weight: four vectors."""
        rows, places = (self.targets != IGNORED).nonzero(as_tuple=True)
        before = prefix + self.predictors_of[rows, places]
        return rows, before, self.targets[rows, places], self.weights[rows, places]


@dataclass
class _Row:
    """The columns of `PackedTexts` for one picture, while they grow."""

    ids: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    predictors_of: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    count: int = 0  # segments so far

    def append(self, tokens: Sequence[int], parent: int, position: int, before: int, weight: float | None) -> None:
        """Add a segment whose first token comes after the place `before`; learned if it has a weight."""
        start, number = len(self.ids), len(tokens)
        self.ids += tokens
        self.segments += [self.count] * number
        self.parents += [parent] * number
        self.positions += range(position, position + number)
        self.targets += [IGNORED] * number if weight is None else tokens
        self.predictors_of += [before, *range(start, start + number - 1)] if number else []
        self.weights += [weight or 0.0] * number
        self.count += 1

    def add(self, prompted: Prompted) -> None:
        prompt, given = self.count, len(prompted.given)
        self.append(prompted.given, prompt, 0, -1, None)
        before = len(self.ids) - 1 if given else -1
        for text, weight in zip(prompted.texts, prompted.weights or [1.0] * len(prompted.texts), strict=True):
            self.append(text, prompt, given, before, weight)


def pack_texts(
    rows: Sequence[Sequence[Prompted]], pad_token_id: int, device: torch.device | str = "cpu"
) -> PackedTexts:
    """Pack, for each picture, its prompts and the texts to be learned after each."""
    packed = []
    for prompts in rows:
        row = _Row()
        for prompted in prompts:
            row.add(prompted)
        packed.append(row)
    length = max(len(row.ids) for row in packed)

    def column(name: str, fill: float) -> Tensor:
        return torch.tensor(list(_padded((getattr(row, name) for row in packed), length, fill)), device=device)

    return PackedTexts(
        ids=column("ids", pad_token_id),
        segments=column("segments", _PADDING),
        parents=column("parents", _PADDING),
        positions=column("positions", 0),
        targets=column("targets", IGNORED),
        predictors_of=column("predictors_of", 0),
        weights=column("weights", 0.0),
        longest=max(prompted.longest for prompts in rows for prompted in prompts),
    )


def _padded(rows: Iterator[list[float]], length: int, fill: float) -> Iterator[list[float]]:
    for row in rows:
        yield row + [fill] * (length - len(row))
