"""mmpretrain's sampler, for its configs."""

from collections.abc import Iterator
from typing import Any

from mmengine.dataset import DefaultSampler

from blip2.registry import DATA_SAMPLERS

_SUBSAMPLE_TYPES = ("default", "sequential")


@DATA_SAMPLERS.register_module()
class SequentialSampler(DefaultSampler):
    """The samples in order, dealt to the processes one by one or in one run each.

    Our evaluation loops lay out their batches themselves and ask no sampler for an order.

    Args:
        dataset: what is sampled.
        subsample_type: 'default' deals 0, 2, 4 … and 1, 3, 5 … to two processes; 'sequential' the first half and the
            second.
        seed: unused, the order being fixed; mmengine's runner gives it.
        round_up: repeat samples from the beginning until the processes have equally many.
    """

    def __init__(
        self, dataset: Any, subsample_type: str = "default", seed: int | None = None, round_up: bool = True
    ) -> None:
        if subsample_type not in _SUBSAMPLE_TYPES:
            raise ValueError(f"subsample_type={subsample_type!r} is unknown; choose one of {list(_SUBSAMPLE_TYPES)}")
        super().__init__(dataset, shuffle=False, seed=seed, round_up=round_up)
        self.subsample_type = subsample_type

    def __iter__(self) -> Iterator[int]:
        if self.subsample_type == "default":
            return super().__iter__()
        share, over = divmod(self.total_size, self.world_size)
        first = self.rank * share + min(self.rank, over)
        indices = range(first, first + share + (self.rank < over))
        return iter([index % len(self.dataset) for index in indices])
