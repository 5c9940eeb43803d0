"""Features of a whole gallery, which may be more than memory holds."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from mmengine.dist import all_gather_object, broadcast, get_dist_info
from mmengine.logging import print_log
from torch import Tensor

from blip2.utils.memory import free_bytes

from .errors import OptionError

# Of the memory that is free when the first rows come; what is computed besides needs some too.
SHARE = 0.5


class FeatureStore:
    """Rows of one shape and type, for which room is made once, when the first ones come.

    They lie in memory, where copies to a GPU are quick if there is one, or in a file if they are more than a part
    (`SHARE`) of what is free: the system then keeps in memory what it can.

    Args:
        count: how many rows there may be at most.
        folder: where the file goes; it goes away with the store.
    """

    def __init__(self, count: int, folder: str | Path) -> None:
        self.count, self.folder = count, Path(folder)
        self._rows: Tensor | None = None
        self._own: list[list[int]] = []
        self._file: TemporaryDirectory[str] | None = None

    @property
    def in_file(self) -> bool:
        """Whether the rows lie in a file."""
        return self._file is not None

    def put(self, numbers: Sequence[int], rows: Tensor) -> None:
        """Keeps rows under their numbers.

        Raises:
            OptionError: neither memory nor disk has room for all of them.
        """
        if self._rows is None:
            self._rows = self._room(tuple(rows.shape[1:]), rows.dtype)
        self._rows[torch.tensor(numbers)] = rows.to("cpu")
        self._own.append(list(numbers))

    def gathered(self, order: Sequence[int]) -> Tensor:
        """The rows of all processes whose numbers are in `order`, which rises; what is left out there is overwritten.

        Raises:
            ValueError: no process has any.
        """
        self._exchange()
        if self._rows is None:
            raise ValueError("no process has anything to gather")
        for place, number in enumerate(order):
            if place != number:
                self._rows[place] = self._rows[number]
        return self._rows[: len(order)]

    def close(self) -> None:
        """Gives the room back."""
        self._rows = None
        if self._file is not None:
            self._file.cleanup()
            self._file = None

    def _exchange(self) -> None:
        """Every process gets the rows of the others, batch by batch."""
        rank, world_size = get_dist_info()
        if world_size == 1:
            return
        kind = None if self._rows is None else (tuple(self._rows.shape[1:]), self._rows.dtype)
        described = all_gather_object((self._own, kind))
        for source, (batches, kind) in enumerate(described):
            for numbers in batches:
                assert kind is not None
                if self._rows is None:
                    self._rows = self._room(*kind)
                places = torch.tensor(numbers)
                rows = self._rows[places] if source == rank else torch.empty(len(numbers), *kind[0], dtype=kind[1])
                broadcast(rows.view(torch.uint8), source)  # bytes: not every backend knows every type
                if source != rank:
                    self._rows[places] = rows

    def _room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = self.count * torch.Size(shape).numel() * dtype.itemsize
        free = free_bytes("cpu")
        _, world_size = get_dist_info()
        if free is None or size * world_size <= SHARE * free:
            return torch.empty(self.count, *shape, dtype=dtype, pin_memory=torch.cuda.is_available())
        self.folder.mkdir(parents=True, exist_ok=True)
        there = shutil.disk_usage(self.folder).free
        amount = f"{size / 1e9:,.1f} GB"
        if size * world_size > there:
            raise OptionError(
                f"the pictures' features take {amount} in each of {world_size} process(es); {free / 1e9:,.1f} GB of "
                f"memory and {there / 1e9:,.1f} GB of disk in {self.folder} are free: use --precision bf16, a "
                "--work-dir on a larger disk, or fast_match=True"
            )
        print_log(f"the pictures' features take {amount}: they are kept in a file in {self.folder}", "current")
        self._file = TemporaryDirectory(prefix="features-", dir=self.folder)
        flat = torch.from_file(str(Path(self._file.name) / "rows"), shared=True, size=size, dtype=torch.uint8)
        return flat.view(dtype).view(self.count, *shape)
