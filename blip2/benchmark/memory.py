"""Whether a model fits, told before it is built."""

import torch
from mmengine.config import Config

from blip2.utils.memory import free_bytes

from .work import count_parameters

# Peers that use our model itself; the others hold a copy of its weights.
SHARING = ("repeated", "padded")
_BYTES = 4  # answers are compared in fp32 before the precision is lowered
_ROOM = 1.2  # for activations and caches


def check_memory(config: Config, kind: str, device: torch.device, *, peer: str | None) -> None:
    """Raises ValueError if the model of `config`, and a peer's copy of it, need more memory than `device` has free."""
    free = free_bytes(device)
    if free is None:
        return
    parameters = count_parameters(config, kind)
    copies = 1 if peer is None or peer in SHARING else 2
    needed = parameters * _BYTES * copies * _ROOM
    if needed > free:
        beside = f", once for blip2 and once for {peer}" if copies == 2 else ""
        less = "--no-peer needs half of it, and " if copies == 2 else ""
        raise ValueError(
            f"not enough memory on {device}: {parameters / 1e9:.2f} G parameters in fp32{beside} need about "
            f"{needed / 1e9:,.0f} GB with room to compute, and {free / 1e9:,.0f} GB are free; {less}--preset mid fits "
            "nearly everywhere"
        )
