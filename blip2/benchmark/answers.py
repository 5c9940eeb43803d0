"""What contenders answer, and when two answers are the same."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from blip2.models.retrieval_scoring import BEHIND

# How far two scores of one pair may be apart, by the precision of the products; they are of the size of 1.
SCORE_TOLERANCE = {"fp64": 1e-5, "fp32": 1e-4, "fp16": 0.02, "bf16": 0.1}


class Answers(Protocol):
    """All answers of a round.

    Attributes:
        what: is compared.
        made_by: the last stage, which is to blame if all before it agree.
    """

    what: ClassVar[str]
    made_by: ClassVar[str]

    def __len__(self) -> int: ...

    def distinct(self) -> int:
        """How many different ones there are."""

    def same(self, other: Any, precision: str) -> int:
        """How many are the same as the other's."""

    def gap(self, other: Any) -> float | None:
        """The largest difference of two scores; None if there are no scores."""


@dataclass(frozen=True)
class TokenIds:
    """Texts as token ids R×T, all of one length."""

    what: ClassVar[str] = "token ids"
    made_by: ClassVar[str] = "language model"
    ids: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def distinct(self) -> int:
        return len({tuple(row) for row in self.ids.tolist()})

    def same(self, other: "TokenIds", precision: str) -> int:
        if self.ids.shape != other.ids.shape:
            return 0
        return int((self.ids == other.ids).all(1).sum())

    def gap(self, other: "TokenIds") -> float | None:
        return None


@dataclass(frozen=True)
class Rankings:
    """Scores of M texts for each of B pictures, `i2t` B×M, and of the pictures for each text, `t2i` M×B.

    A row is a ranking. Its candidates are the pairs that the matching head has seen; the others lie `BEHIND` them.
    """

    what: ClassVar[str] = "candidates and scores"
    made_by: ClassVar[str] = "ranking"
    i2t: Tensor
    t2i: Tensor

    def __len__(self) -> int:
        return len(self.i2t) + len(self.t2i)

    def distinct(self) -> int:
        orders = (scores.argsort(dim=1, descending=True).tolist() for scores in (self.i2t, self.t2i))
        return sum(len({tuple(row) for row in rows}) for rows in orders)

    def same(self, other: "Rankings", precision: str) -> int:
        """Rankings with the same candidates, at least one, whose scores are no more than `SCORE_TOLERANCE` apart."""
        count = 0
        for mine, theirs in ((self.i2t, other.i2t), (self.t2i, other.t2i)):
            if mine.shape != theirs.shape:
                return 0
            matched = _matched(mine)
            alike = (matched == _matched(theirs)) & (~matched | ((mine - theirs).abs() <= SCORE_TOLERANCE[precision]))
            count += int((alike.all(1) & matched.any(1)).sum())
        return count

    def gap(self, other: "Rankings") -> float | None:
        gaps = []
        for mine, theirs in ((self.i2t, other.i2t), (self.t2i, other.t2i)):
            if mine.shape != theirs.shape:
                return None
            gaps.append((mine - theirs).abs()[_matched(mine) & _matched(theirs)])
        return max((float(values.max()) for values in gaps if len(values)), default=None)


def _matched(scores: Tensor) -> Tensor:
    return scores > -BEHIND / 2  # no matching logit is as large as that
