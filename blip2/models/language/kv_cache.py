"""Keys and values of a generation in progress, of which the beams of a picture share the prompt's.

Letters: B pictures, K beams, H heads, P prompt tokens (padding included), S slots = P + K · steps.
"""

import torch
from torch import Tensor


class BeamCache:
    """Slots 0…P-1 hold the prompt, once per picture; the K slots from P + n·K on hold what the K beams appended in step
    n.

    `_visible` (B×K×S) says which slots are a beam's own past. When beams change parents, rows of `_visible` move and
    nothing else.
    """

    def __init__(self, *, num_layers: int, prefix_mask: Tensor, num_beams: int, max_new_tokens: int) -> None:
        """`prefix_mask` is bool B×P, True at real tokens."""
        rows, prefix = prefix_mask.shape
        device = prefix_mask.device
        # The last new token is never fed back, so it needs no slot.
        self.capacity = prefix + num_beams * (max_new_tokens - 1)
        self.num_beams = num_beams
        self.prefix_lengths = prefix_mask.sum(1)
        self.last_prefix_slot = (prefix_mask.long() * torch.arange(1, prefix + 1, device=device)).argmax(1)
        self._visible = torch.zeros(rows, num_beams, self.capacity, dtype=torch.bool, device=device)
        self._visible[:, :, :prefix] = prefix_mask[:, None]
        self._layers: list[LayerCache] = [LayerCache(self) for _ in range(num_layers)]
        self._beams = torch.arange(num_beams, device=device)
        self._steps = 0
        self.start, self.end = 0, prefix  # slots that the running forward pass fills

    def layer(self, index: int) -> "LayerCache":
        return self._layers[index]

    def next_positions(self) -> Tensor:
        """B×1: position, counted from 0 without padding, of the tokens about to be fed."""
        return (self.prefix_lengths + self._steps)[:, None]

    def open_step(self) -> Tensor:
        """Make room for one token a beam, and return B×K×S: which slots each beam sees, its new token included."""
        self.start, self.end = self.end, self.end + self.num_beams
        self._visible[:, self._beams, self.start + self._beams] = True
        self._steps += 1
        return self._visible[:, :, : self.end]

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

    def __init__(self, cache: BeamCache) -> None:
        self._cache = cache
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store B×H×T×d for the slots that the cache has opened; return all stored so far, B×H×S×d."""
        start, end = self._cache.start, self._cache.end
        if self._keys is None or self._values is None:
            rows, heads, _, width = key.shape
            self._keys = key.new_empty(rows, heads, self._cache.capacity, width)
            self._values = torch.empty_like(self._keys)
        self._keys[:, :, start:end] = key
        self._values[:, :, start:end] = value
        return self._keys[:, :, :end], self._values[:, :, :end]

    def keep(self, rows: Tensor) -> None:
        if self._keys is None or self._values is None:
            return
        end = self._cache.end
        for stored in (self._keys, self._values):
            stored[: len(rows), :, :end] = stored[rows, :, :end]
        self._keys, self._values = self._keys[: len(rows)], self._values[: len(rows)]
