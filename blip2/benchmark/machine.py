"""What a measurement was made on: figures without it say nothing."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


def describe(device: torch.device) -> dict[str, Any]:
    """Processor, threads, device and versions, as plain values."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "amx": _has_amx(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": installed("transformers"),
        "blip2": installed("blip2"),
    }


def in_words(machine: dict[str, Any]) -> str:
    """One line for people."""
    cpu = f"{machine['cpu']} ({machine['cpu_capability']}{', AMX' if machine['amx'] else ''})"
    parts = [
        *([machine["gpu"]] if machine["gpu"] else []),
        cpu,
        f"{machine['threads']} threads of {machine['cores']} cores",
        f"torch {machine['torch']}",
        f"transformers {machine['transformers'] or 'not installed'}",
        f"Python {machine['python']}",
    ]
    return ", ".join(parts)


def cpu_name() -> str:
    """As the processor calls itself."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def installed(package: str) -> str | None:
    """The version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _has_amx() -> bool:
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # newer than the oldest torch that we support
    return bool(capabilities().get("amx_tile")) if capabilities else False
