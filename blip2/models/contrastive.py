"""Image-text contrast across processes: who belongs to whom, the loss, and hard negatives (arXiv 2301.12597, 3.1).

Letters: B pairs of this process, M pairs of all processes, Q queries, D width.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather, all_gather_object, get_rank, get_world_size
from torch import Tensor

LABEL_SMOOTHING = 0.1


def similarity(image_feat: Tensor, text_feat: Tensor) -> Tensor:
    """B×Q×D features of pictures and M×D of texts, normalised, to B×M: the best query's cosine.

    In float32 also under autocast: divided by the temperature, half precision's error would be seen.
    """
    with torch.autocast(image_feat.device.type, enabled=False):
        return (image_feat.float() @ text_feat.float().T).max(dim=1).values


def same_item(ids: Sequence[Hashable | None], device: torch.device | str = "cpu") -> Tensor:
    """B×M, true where a pair of all processes (column) belongs to the same picture as one of this process (row).

    `ids` are the pictures' ids, of any hashable kind; a pair without one (None) is like no other.
    """
    plain = [item.item() if isinstance(item, Tensor) else item for item in ids]  # equal tensors have unequal hashes
    everyone = all_gather_object(plain) if get_world_size() > 1 else [plain]
    numbers: dict[Any, int] = {}
    shares = [[_number(numbers, item, (rank, i)) for i, item in enumerate(one)] for rank, one in enumerate(everyone)]
    own = torch.tensor(shares[get_rank()], device=device, dtype=torch.long)
    return own[:, None] == torch.tensor([n for share in shares for n in share], device=device)


def _number(numbers: dict[Any, int], item: Hashable | None, place: tuple[int, int]) -> int:
    return numbers.setdefault((None, place) if item is None else (item,), len(numbers))


def contrastive_loss(logits: Tensor, same: Tensor) -> Tensor:
    """Cross-entropy of B×M `logits` against 0.9 shared by the columns of the `same` item and 0.1 by all columns.

    Where every item is there once this is cross-entropy with label smoothing 0.1.
    """
    targets = same / same.sum(1, keepdim=True)
    targets = (1 - LABEL_SMOOTHING) * targets + LABEL_SMOOTHING / same.shape[1]
    return -(F.log_softmax(logits.float(), dim=1) * targets).sum(1).mean()


@torch.no_grad()
def hard_negatives(logits: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of B×M `logits` one column drawn by their softmax, never one of the `same` item.

    Returns rows and columns; a row without any other item in reach is left out.
    """
    rows = (~same).any(1).nonzero().squeeze(1)
    weights = logits.masked_fill(same, float("-inf"))[rows].softmax(dim=1)
    return rows, torch.multinomial(weights, 1).squeeze(1) if len(rows) else rows


def gather_rows(x: Tensor, with_gradient: bool = False) -> Tensor:
    """The rows of all processes, rank after rank; shares may differ in number and, padded with zeros, in length.

    The gradient, where asked for, comes back to each process from all of them.
    """
    if get_world_size() == 1:
        return x
    shapes = torch.stack(all_gather(torch.tensor(x.shape, device=x.device)))
    padding = [(0, int(most) - size) for most, size in zip(shapes.amax(0), x.shape, strict=True)]
    padded = F.pad(x, [n for pair in reversed(padding) for n in pair])
    parts = _Gather.apply(padded) if with_gradient else all_gather(padded.detach())
    return torch.cat([part[: int(shape[0])] for part, shape in zip(parts, shapes, strict=True)])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(all_gather(x.contiguous()))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # type: ignore[override]
        total = torch.stack(gradients)
        torch.distributed.all_reduce(total)
        return total[get_rank()]
