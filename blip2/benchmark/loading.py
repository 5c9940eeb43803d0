"""How long loading takes, and how much memory: ours beside reading the file's bytes, and transformers' own.

Every measurement is a fresh process (`loading_process`), so that its high-water mark is its own.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from blip2.apis.hub import build_on_meta
from blip2.checkpoints.convert import from_ours
from blip2.checkpoints.export import write_file, write_folder
from blip2.checkpoints.hf_config import hf_config

from . import machine

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Ways of loading → most memory relative to the weights' size, most time relative to reading the bytes.
TARGETS: dict[str, tuple[float, float] | None] = {"blip2": (1.15, 1.5), "pth": (1.3, 2.5), "transformers": None}
_FILES = {"blip2": "weights.safetensors", "pth": "weights.pth", "transformers": "hf"}
_BLOCK = 1 << 20


class LoadingError(RuntimeError):
    """A process that was to be measured failed; the text is its own."""


def write_weights(config: Config, folder: Path, stored: str, ways: list[str]) -> None:
    """Random weights of the model of `config` in the type `stored`, in the files of these ways of loading, and the
    config.

    Raises `CheckpointError` where the disk is too small.
    """
    config = config.copy()
    config.model.tokenizer = None
    config.dump(folder / "config.py")
    model = build_on_meta(config)
    block = torch.randn(_BLOCK, generator=torch.Generator().manual_seed(0)).mul_(0.02).to(DTYPES[stored])
    tied: dict[int, torch.Tensor] = {}
    tensors = {}
    for key, value in model.state_dict(keep_vars=True).items():
        if not value.is_floating_point():
            tensors[key] = torch.arange(value.numel(), dtype=value.dtype).view(value.shape)
        else:
            if id(value) not in tied:
                tied[id(value)] = _repeated(block, value.numel()).view(value.shape)
            tensors[key] = tied[id(value)]
    if "blip2" in ways:
        write_file(tensors, folder / _FILES["blip2"], "blip2", {})
    if "pth" in ways:
        write_file(tensors, folder / _FILES["pth"], "openmmlab", {})
    if "transformers" in ways:
        # As transformers stores it: a tied head once.
        theirs = from_ours(tensors, "hf").tensors
        theirs.pop("language_model.lm_head.weight", None)
        hub_config = hf_config(model)
        hub_config.dtype = DTYPES[stored]
        write_folder(theirs, folder / _FILES["transformers"], hub_config)


def _repeated(block: torch.Tensor, count: int) -> torch.Tensor:
    return block.repeat(-(-count // len(block)))[:count].clone()


def measure_loading(
    folder: Path, precision: str, ways: list[str], *, repeats: int = 3, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Time and memory of each way with a warm and a cold page cache; plain values for a JSON file.

    Raises `LoadingError` where a process fails.
    """
    record: dict[str, Any] = {
        "machine": machine.describe(torch.device("cpu")),
        "precision": precision,
        "repeats": repeats,
        "loading": [],
    }
    for way in ways:
        source = folder / _FILES[way]
        files = [source] if source.is_file() else sorted(source.glob("*.safetensors"))
        for cache in ("warm", "cold"):
            reads: list[dict[str, Any]] = []
            loads: list[dict[str, Any]] = []
            for index in range(repeats):
                say(f"{way}, {cache} cache: round {index + 1} of {repeats}")
                for kind, found in (("read", reads), (way, loads)):
                    _set_cache(files, cache)
                    found.append(_measured(kind, folder, files, source, precision))
            record["loading"].append(_row(way, cache, files, reads, loads))
    return record


def _row(way: str, cache: str, files: list[Path], reads: list[dict], loads: list[dict]) -> dict[str, Any]:
    read, load = (statistics.median(run["seconds"] for run in runs) for runs in (reads, loads))
    memory = max(run["memory"] for run in loads) / loads[0]["weights"]
    targets = TARGETS[way]
    return {
        "way": way,
        "cache": cache,
        "file_bytes": sum(file.stat().st_size for file in files),
        "weight_bytes": loads[0]["weights"],
        "read_seconds": [run["seconds"] for run in reads],
        "load_seconds": [run["seconds"] for run in loads],
        "time_ratio": load / read,
        "memory_ratio": memory,
        "targets": None if targets is None else {"memory_ratio": targets[0], "time_ratio": targets[1]},
        "met": None if targets is None else memory <= targets[0] and load / read <= targets[1],
    }


def render(record: dict[str, Any]) -> str:
    """A table for people."""
    lines = [f"{'way':<14}{'cache':<7}{'file':>9}{'weights':>10}{'read':>9}{'load':>9}{'time':>8}{'memory':>8}  target"]
    for row in record["loading"]:
        targets = row["targets"]
        goal = "" if targets is None else f"≤ {targets['time_ratio']} ×, ≤ {targets['memory_ratio']} ×: "
        met = "" if targets is None else ("met" if row["met"] else "MISSED")
        lines.append(
            f"{row['way']:<14}{row['cache']:<7}{row['file_bytes'] / 1e9:>6.2f} GB{row['weight_bytes'] / 1e9:>7.2f} GB"
            f"{statistics.median(row['read_seconds']):>7.2f} s{statistics.median(row['load_seconds']):>7.2f} s"
            f"{row['time_ratio']:>6.2f} ×{row['memory_ratio']:>6.2f} ×  {goal}{met}"
        )
    words = machine.in_words(record["machine"])
    return "\n".join(
        [
            f"loaded in {record['precision']}, a fresh process each time; time relative to read() of the same files in "
            "the same cache state, memory (high-water mark less its value after imports) to the weights' size",
            *lines,
            f"machine: {words}, load average {record['machine']['load_average']}",
        ]
    )


def _set_cache(files: list[Path], state: str) -> None:
    for file in files:
        with file.open("rb", buffering=0) as opened:
            if state == "cold":
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                buffer = bytearray(1 << 24)
                while opened.readinto(buffer):
                    pass


def _measured(kind: str, folder: Path, files: list[Path], source: Path, precision: str) -> dict[str, Any]:
    arguments = [kind, str(folder / "config.py"), str(source), precision, *map(str, files)]
    command = [sys.executable, "-m", "blip2.benchmark.loading_process", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadingError(f"{' '.join(command[1:])} ended with exit code {done.returncode}:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])
