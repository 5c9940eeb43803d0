"""Keys and values of a generation in progress, of which the beams of a picture share the prompt's.

Letters: B pictures, K beams, H heads, P prompt tokens (padding included), S slots = P + K · steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class _Slots:
    """How many there are, and which of them the running forward pass fills."""

    prefix: int
    capacity: int
    start: int
    end: int


class BeamCache:
    """Slots 0…P-1 hold the prompt, once per picture; K more hold what the K beams append in each step.

    `_visible` (B×K×S) says which slots are a beam's own past. When beams change parents, rows of `_visible` move and
    nothing else.
    """

    def __init__(self, *, num_layers: int, prefix_mask: Tensor, num_beams: int, max_new_tokens: int) -> None:
        """`prefix_mask` is bool B×P, True at real tokens."""
        rows, prefix = prefix_mask.shape
        device = prefix_mask.device
        # The last new token is never fed back, so it needs no slot.
        self._slots = _Slots(prefix, prefix + num_beams * (max_new_tokens - 1), start=0, end=prefix)
        self.prefix_lengths = prefix_mask.sum(1)
        self.last_prefix_slot = (prefix_mask.long() * torch.arange(1, prefix + 1, device=device)).argmax(1)
        self._visible = torch.zeros(rows, num_beams, self._slots.capacity, dtype=torch.bool, device=device)
        self._visible[:, :, :prefix] = prefix_mask[:, None]
        self._layers: list[LayerCache] = [LayerCache(self._slots) for _ in range(num_layers)]
        self._beams = torch.arange(num_beams, device=device)
        self._steps = 0

    def layer(self, index: int) -> "LayerCache":
        return self._layers[index]

    def next_positions(self) -> Tensor:
        """B×1: position, counted from 0 without padding, of the tokens about to be fed."""
        return (self.prefix_lengths + self._steps)[:, None]

    def open_step(self) -> Tensor:
        """Make room for one token a beam, and return B×K×S: which slots each beam sees, its new token included."""
        slots = self._slots
        slots.start, slots.end = slots.end, slots.end + len(self._beams)
        self._visible[:, self._beams, slots.start + self._beams] = True
        self._steps += 1
        return self._visible[:, :, : slots.end]

    def open_branches(self, count: int, length: int) -> tuple[Tensor, Tensor]:
        """Make room, after the prompt and in place of all that came after it, for `count` texts of `length` tokens.

        Returns their positions B×N and who may look at whom, B×N×S, for N = `count` · `length` tokens, text after text:
        each sees the prompt and its own text up to itself.
        """
        slots, device = self._slots, self._visible.device
        prefix = slots.prefix
        slots.start, slots.end = prefix, prefix + count * length
        place = torch.arange(length, device=device).repeat(count)
        text = torch.arange(count, device=device).repeat_interleave(length)
        own = (text[:, None] == text) & (place[:, None] >= place)
        rows = len(self.prefix_lengths)
        prompt = self._visible[:, :1, :prefix].expand(-1, count * length, -1)
        return self.prefix_lengths[:, None] + place, torch.cat((prompt, own.expand(rows, -1, -1)), 2)

    def reorder(self, parents: Tensor) -> None:
        """Beam k of picture b goes on from the past of beam ``parents[b, k]`` (B×K)."""
        self._visible = self._visible.gather(1, parents[..., None].expand_as(self._visible))

    def keep(self, rows: Tensor) -> None:
        """Drop all pictures but `rows` (ascending indices)."""
        self.prefix_lengths = self.prefix_lengths[rows]
        self._visible = self._visible[rows]
        for layer in self._layers:
            layer.keep(rows)


class LayerCache:
    """One layer's keys and values, allocated with the dtype and device of the first that come."""

    def __init__(self, slots: _Slots) -> None:
        self._slots = slots
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store B×H×T×d for the slots that the cache has opened; return all stored so far, B×H×S×d."""
        start, end = self._slots.start, self._slots.end
        if self._keys is None or self._values is None:
            rows, heads, _, width = key.shape
            self._keys = key.new_empty(rows, heads, self._slots.capacity, width)
            self._values = torch.empty_like(self._keys)
        self._keys[:, :, start:end] = key
        self._values[:, :, start:end] = value
        return self._keys[:, :, :end], self._values[:, :, :end]

    def keep(self, rows: Tensor) -> None:
        if self._keys is None or self._values is None:
            return
        end = self._slots.end
        for stored in (self._keys, self._values):
            stored[: len(rows), :, :end] = stored[rows, :, :end]
        self._keys, self._values = self._keys[: len(rows)], self._values[: len(rows)]
