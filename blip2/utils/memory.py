"""How much memory there is."""

from pathlib import Path

import torch


def free_bytes(device: torch.device | str) -> int | None:
    """Memory of a device that can be had; None where there is no telling."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
