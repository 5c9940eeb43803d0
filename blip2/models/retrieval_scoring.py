"""Ranking pictures and texts both ways: by similarity, and the most similar again with the matching head's logit.

Letters: B pictures, M texts, Q queries, D width. The largest things here are B×M.
"""

import time
from collections.abc import Callable, Iterable, Sequence

import torch
from mmengine.dist import all_reduce
from mmengine.logging import print_log
from torch import Tensor

from .contrastive import similarity

# What is not looked at by the matching head ranks behind what is, in the order of similarity (mmpretrain, LAVIS: in no
# order). Lower than any cosine plus logit.
BEHIND = 100.0
# Numbers of queries × texts that are held at once: 64 MiB in float32.
_CHUNK = 2**24
# How often it is told how far the matching is: with many pictures it goes on for minutes.
SECONDS = 20.0


def similarity_matrix(image_feat: Tensor, text_feat: Tensor) -> Tensor:
    """`similarity` B×M of all B×Q×D with all M×D, some pictures at a time."""
    pictures = max(1, _CHUNK // max(1, image_feat.shape[1] * len(text_feat)))
    scores = torch.empty(len(image_feat), len(text_feat), device=image_feat.device)
    for start in range(0, len(image_feat), pictures):
        scores[start : start + pictures] = similarity(image_feat[start : start + pictures], text_feat)
    return scores


def rank_both_ways(
    scores: Tensor, topk: int, match: Callable[[int, Tensor], Tensor], share: tuple[int, int] = (0, 1)
) -> tuple[Tensor, Tensor]:
    """Scores of texts for each picture, B×M, and of pictures for each text, M×B.

    Of each row the `topk` highest become similarity plus logit; the others stay behind them. A pair that is among the
    best both ways is matched once, and all texts of a picture together.

    Args:
        scores: similarities B×M.
        match: gives the logits of a picture, called with its number, and some texts, with theirs.
        share: this process's number and how many share the work; all must have the same `scores`.
    """
    of_picture, of_text = _best(scores, topk), _best(scores.T, topk).T  # B×M
    logits = torch.zeros_like(scores)
    rank, world_size = share
    told = time.monotonic()
    for picture in range(rank, len(scores), world_size):
        if time.monotonic() - told > SECONDS:
            print_log(f"the texts of {picture} of {len(scores)} pictures are matched", "current")
            told = time.monotonic()
        texts = (of_picture[picture] | of_text[picture]).nonzero().squeeze(1)
        if len(texts):
            logits[picture, texts] = match(picture, texts).to(scores)
    if world_size > 1:
        all_reduce(logits)  # zero in all processes but one
    behind, matched = scores - BEHIND, scores + logits
    return torch.where(of_picture, matched, behind), torch.where(of_text, matched, behind).T


def _best(scores: Tensor, topk: int) -> Tensor:
    """True at the `topk` highest of each row."""
    indices = scores.topk(min(topk, scores.shape[1])).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, indices, True)


def refuse_not_finite(**features: Tensor) -> None:
    """Raise FloatingPointError, naming the rows, if any of these features (named in the plural) is NaN or infinite."""
    bad = {name: _not_finite(rows) for name, rows in features.items()}
    named = [f"{name} {_listed(rows)}" for name, rows in bad.items() if rows]
    if named:
        raise FloatingPointError(
            f"the features of {' and of '.join(named)} (counted from 0) are NaN or infinite and cannot be compared: "
            "check these inputs and the model's weights, or use fp32"
        )


def _not_finite(rows: Tensor) -> list[int]:
    # The sum first: it makes no copy.
    if bool(rows.sum(dtype=torch.float32).isfinite()):
        return []
    return [number for number, row in enumerate(rows) if not bool(row.isfinite().all())]


def _listed(numbers: Sequence[int] | Iterable[int], most: int = 10) -> str:
    numbers = list(numbers)
    return ", ".join(map(str, numbers[:most])) + (f" and {len(numbers) - most} more" if len(numbers) > most else "")
