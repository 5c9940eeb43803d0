"""The tiny preset, measured once for all tests of this folder that only read the report."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from blip2.benchmark import limits
from blip2.benchmark.run import Report, benchmark
from blip2.benchmark.work import preset


@pytest.fixture(scope="session", autouse=True)
def short_limits() -> Iterator[None]:
    """The machine's own rates, measured for a moment only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "_SECONDS", 0.01)
        patch.setattr(limits, "_COPIED_BYTES", 1 << 20)
        yield


@pytest.fixture(scope="session")
def run_tiny() -> Callable[..., Report]:
    """Runs the tiny preset; arguments are those of the task's work or of `benchmark`."""

    def run(task: str = "caption", **changes: Any) -> Report:
        config, work = preset("tiny", task)
        asked = {name: changes.pop(name) for name in list(changes) if hasattr(work, name)}
        return benchmark(config, replace(work, **asked), name="tiny", **{"repeats": 3, **changes})

    return run


@pytest.fixture(scope="session")
def tiny_report(run_tiny) -> Report:
    return run_tiny()
