"""`torch.compile` for the parts that do the same on every call: the image encoder and the Q-Former."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from .blip2_base import Blip2Base

PARTS = ("vision_backbone", "multimodal_backbone")


def compile_encoders(model: nn.Module, backend: str = "inductor") -> None:
    """Let `torch.compile` make kernels for the image encoder and the Q-Former of `model` at their first call.

    Weights and state dict stay as they are. The language model is left alone: its lengths change at every step. Where a
    part cannot be compiled (no compiler, say) it goes on as it is, which is logged once.

    Raises TypeError for another kind of model.
    """
    if not isinstance(model, Blip2Base):
        raise TypeError(f"{type(model).__name__} is none of BLIP-2's models, whose encoders can be compiled")
    for name in PARTS:
        part = getattr(model, name)
        part.forward = _Compiled(name, part.forward, backend)


class _Compiled:
    def __init__(self, name: str, plain: Callable[..., Any], backend: str) -> None:
        self.name, self.plain = name, plain
        self.run: Callable[..., Any] = torch.compile(plain, backend=backend)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.run is self.plain:
            return self.plain(*args, **kwargs)
        try:
            return self.run(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # An error of the input comes again here, and is then the caller's.
            result = self.plain(*args, **kwargs)
            self.run = self.plain
            reason = next(iter(str(error).splitlines()), "")
            print_log(
                f"{self.name} is not compiled and goes on without: {type(error).__name__}: {reason}",
                "current",
                logging.WARNING,
            )
            return result
