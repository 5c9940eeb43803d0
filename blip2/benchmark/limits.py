"""What the machine can do at most, measured between the rounds, and whether it held still meanwhile."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from blip2.models.linear import linear

from .contender import synchronize
from .spread import Spread

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# A limit whose rounds differ by more than this, relative to their median, is none to compare with.
UNSTEADY = 0.15
# With less of its threads' time than this, a measurement shared its cores with something else.
LEAST_CPU_SHARE = 0.9
_SECONDS = 0.2  # of each measurement, at least
_COPIED_BYTES = 256 * 2**20  # more than caches hold


@dataclass
class Limits:
    """A matrix product's and a copy's rates, round by round.

    The product is that of the vision tower's feed-forward layers: `rows` tokens, `narrow` wide, to `wide` and back.

    Attributes:
        matmul: operations a second through `blip2.models.linear`, as our models multiply.
        torch_matmul: the same through `F.linear`.
        copy: bytes a second, read and written ones together.
        cpu_share: processor time of the products over wall time and threads, 1 if all threads ran all the time;
            nothing where the processor is not what computes.
    """

    rows: int
    narrow: int
    wide: int
    precision: str
    device: torch.device
    matmul: Spread = field(default_factory=Spread)
    torch_matmul: Spread = field(default_factory=Spread)
    copy: Spread = field(default_factory=Spread)
    cpu_share: Spread = field(default_factory=Spread)

    def __post_init__(self) -> None:
        draw = lambda *shape: torch.randn(*shape, device=self.device).to(DTYPES[self.precision])  # noqa: E731
        self._x, self._up, self._down = (
            draw(self.rows, self.narrow),
            draw(self.wide, self.narrow),
            draw(self.narrow, self.wide),
        )
        self._from = torch.zeros(_COPIED_BYTES, dtype=torch.uint8, device=self.device)
        self._to = torch.ones_like(self._from)

    @torch.inference_mode()
    def measure(self) -> None:
        """Once more; takes most of a second."""
        flops = 4 * self.rows * self.narrow * self.wide
        start, cpu = time.perf_counter(), time.process_time()
        self.matmul.values.append(flops * self._rate(lambda: linear(linear(self._x, self._up), self._down)))
        self.torch_matmul.values.append(flops * self._rate(lambda: F.linear(F.linear(self._x, self._up), self._down)))
        if self.device.type == "cpu":
            wall, used = time.perf_counter() - start, time.process_time() - cpu
            self.cpu_share.values.append(used / (wall * torch.get_num_threads()))
        self.copy.values.append(2 * _COPIED_BYTES * self._rate(lambda: self._to.copy_(self._from)))

    def _rate(self, action: Callable[[], Any]) -> float:
        """How many times a second."""
        action()
        synchronize(self.device)
        start, done, elapsed = time.perf_counter(), 0, 0.0
        while elapsed < _SECONDS:
            action()
            synchronize(self.device)
            done += 1
            elapsed = time.perf_counter() - start
        return done / elapsed

    def noise(self) -> list[str]:
        """What speaks against any conclusion from this run; nothing if the machine held still."""
        found = []
        for what, spread in (("matmul", self.matmul), ("copy", self.copy)):
            if spread.values and spread.width > UNSTEADY:
                found.append(
                    f"the machine's own {what} rate changed by {spread.width:.0%} between rounds "
                    f"(more than {UNSTEADY:.0%})"
                )
        if self.cpu_share.values and self.cpu_share.median < LEAST_CPU_SHARE:
            found.append(
                f"its threads had the processor {self.cpu_share.median:.0%} of the time "
                f"(less than {LEAST_CPU_SHARE:.0%}): something else runs here"
            )
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "product": {"rows": self.rows, "narrow": self.narrow, "wide": self.wide, "precision": self.precision},
            "matmul_flops_per_second": self.matmul.as_dict(),
            "torch_matmul_flops_per_second": self.torch_matmul.as_dict(),
            "copy_bytes_per_second": self.copy.as_dict(),
            "cpu_share": self.cpu_share.as_dict() if self.cpu_share.values else None,
        }
