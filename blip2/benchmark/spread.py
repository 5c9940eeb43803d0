"""Several measurements of one thing."""

from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass
class Spread:
    """Some measurements of one thing."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def min(self) -> float:
        return min(self.values)

    @property
    def max(self) -> float:
        return max(self.values)

    @property
    def width(self) -> float:
        """Largest less smallest, relative to the median."""
        return (self.max - self.min) / self.median if self.median else 0.0

    def as_dict(self) -> dict[str, Any]:
        return {"median": self.median, "min": self.min, "max": self.max, "values": self.values}
