"""Tensors that are windows on a file mapped into memory: nothing is read before somebody looks at the numbers.

What was looked at stays in memory as long as the file is mapped, so that a model filled from it would be held twice.
`release` gives a tensor's pages back; who looks again has them read again.
"""

import ctypes
import mmap
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

# Linux's numbers; other systems do without (and hold more memory for a while).
_WILLNEED, _DONTNEED, _HUGEPAGE = 3, 4, 14
_SMALL = 1 << 16  # bytes; what is smaller shares its pages with others
_PIECE = 1 << 21  # numbers that are copied at a time
_LARGE = 1 << 22  # bytes from which on pages of 2 MB pay
_ROOMS: Any = threading.local()
_MAPPINGS = WeakTensorKeyDictionary()  # of windows; beside them, since what is set on a tensor is saved with it


@dataclass(frozen=True)
class _Mapping:
    """Where a file lies in this process's memory."""

    path: str
    inode: int
    first: int  # address
    end: int
    offset: int  # in the file, of `first`


def mark_as_windows(tensors: Sequence[Tensor], path: Path) -> None:
    """Remember of these tensors that they are windows on the file at `path`, if the system says that they are."""
    mapping = _mapping(tensors[0].data_ptr()) if tensors else None
    if mapping is not None and mapping.path == str(path.resolve()):
        for tensor in tensors:
            _MAPPINGS[tensor] = mapping


def expect(tensors: Iterable[Tensor]) -> None:
    """Have the system begin to read these tensors' parts of their files."""
    for tensor in tensors:
        if tensor in _MAPPINGS:
            _advise(tensor, _WILLNEED, _SMALL)


def taken(tensor: Tensor, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
    """A copy of `tensor` of its own; the memory of what it was read from is given back."""
    copy = torch.empty_like(tensor, dtype=dtype, device=device, memory_format=torch.contiguous_format)
    if copy.device.type == "cpu":
        _advise(copy, _HUGEPAGE, _LARGE)
    if tensor not in _MAPPINGS or not tensor.is_contiguous():
        return copy.copy_(tensor)
    if tensor.nbytes >= _LARGE and _read(tensor, copy):
        return copy
    # Piece by piece, so that a large tensor is not held twice either.
    for part, piece in zip(copy.view(-1).split(_PIECE), tensor.view(-1).split(_PIECE), strict=True):
        part.copy_(piece)
        _advise(piece, _DONTNEED, _SMALL)
    return copy


def _read(window: Tensor, copy: Tensor) -> bool:
    """Read what `window` shows from its file into `copy`, which is quicker than having its pages mapped one by one.

    False, with nothing done that matters, where the file isn't there any more (the mapping holds on to it).
    """
    mapping = _MAPPINGS[window]
    start = window.data_ptr() - mapping.first + mapping.offset
    if not mapping.first <= window.data_ptr() <= mapping.end - window.nbytes:
        return False
    try:
        file = os.open(mapping.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if os.fstat(file).st_ino != mapping.inode:
            return False
        if copy.dtype == window.dtype and copy.device.type == "cpu":
            return _fill(copy, file, start)
        room = _room(window.dtype)
        for part in copy.view(-1).split(_PIECE):
            if not _fill(room[: len(part)], file, start):
                return False
            part.copy_(room[: len(part)])
            start += len(part) * window.element_size()
        return True
    finally:
        os.close(file)


def _room(dtype: torch.dtype) -> Tensor:
    """This thread's `_PIECE` numbers to read into: new ones each time would scatter the heap."""
    rooms: dict[Any, Tensor] = vars(_ROOMS)
    if dtype not in rooms:
        rooms[dtype] = torch.empty(_PIECE, dtype=dtype)
    return rooms[dtype]


def _fill(tensor: Tensor, file: int, start: int) -> bool:
    """Read a contiguous tensor's bytes; False where the file ends too soon."""
    rest = tensor.view(-1).view(torch.uint8).numpy().data
    while rest:
        got = os.preadv(file, [rest], start)
        if not got:
            return False
        rest, start = rest[got:], start + got
    return True


def release(tensor: Tensor) -> None:
    """Give the memory of a window back; it is read again when somebody looks. Other tensors are left alone."""
    if tensor in _MAPPINGS:
        _advise(tensor, _DONTNEED, _SMALL)


def _advise(tensor: Tensor, advice: int, least: int) -> None:
    if not sys.platform.startswith("linux") or tensor.nbytes < least:
        return
    first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE  # whole pages only: the others are shared
    end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    # Advice that is not taken does no harm.
    _libc().madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), advice)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)


def _mapping(address: int) -> _Mapping | None:
    """The file that lies at an address of this process's memory, if one does."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        place, _, offset, _, inode, *name = line.split(maxsplit=5)
        first, end = (int(part, 16) for part in place.split("-"))
        if first <= address < end:
            return _Mapping("".join(name), int(inode), first, end, int(offset, 16))
    return None
