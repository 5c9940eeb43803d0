"""One measurement of `loading`, in a process of its own: way of loading, config, source, precision, files.

The clock starts after the imports and stops when every weight has been read once more, so that nothing is left to be
read later. Memory is the process's high-water mark less its value after the imports.
"""

import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from blip2.benchmark.loading import DTYPES


def main(kind: str, config: str, source: str, precision: str, *files: str) -> None:
    load = {"read": _read, "transformers": _transformers}.get(kind, _blip2)
    if kind == "transformers":
        import transformers  # noqa: F401, before the clock starts
        from transformers import Blip2ForConditionalGeneration  # noqa: F401
    elif kind != "read":
        import blip2.apis.inferencers
        import blip2.engine.precision
        import blip2.models  # noqa: F401
    _reset_high_water()
    before = _high_water()
    start = time.perf_counter()
    model = load(config, source, precision, files)
    weights = 0 if model is None else _read_every_weight(model)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "memory": _high_water() - before, "weights": weights}))


def _read(config: str, source: str, precision: str, files: tuple[str, ...]) -> None:
    for file in files:
        with open(file, "rb", buffering=0) as opened:
            opened.read()


def _blip2(config: str, source: str, precision: str, files: tuple[str, ...]) -> Any:
    from blip2 import get_model

    return get_model(config, pretrained=source, precision=precision)


def _transformers(config: str, source: str, precision: str, files: tuple[str, ...]) -> Any:
    from transformers import Blip2ForConditionalGeneration

    return Blip2ForConditionalGeneration.from_pretrained(source, dtype=DTYPES[precision])


def _read_every_weight(model: Any) -> int:
    """The weights' size in bytes; all of them have been looked at."""
    size, total = 0, 0
    for parameter in model.parameters():
        words = parameter.detach().reshape(-1)
        size += words.nbytes
        total += int(words.view(torch.int64 if words.nbytes % 8 == 0 else torch.int16).sum())
    return size


def _reset_high_water() -> None:
    with suppress(OSError):  # otherwise the mark includes what the imports took for a while
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _high_water() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell a process's high-water mark")


if __name__ == "__main__":
    main(*sys.argv[1:])
