"""Random generators: their state in a checkpoint, and seeds that depend on the place alone."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.logging import print_log


def capture(gpus: bool = True) -> dict[str, Any]:
    """The state of Python's, numpy's and torch's generators, as plain values and tensors."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if gpus and torch.cuda.is_initialized() else [],
    }


def restore(state: dict[str, Any]) -> None:
    """Puts the generators back to what `capture` returned."""
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([device_state.cpu() for device_state in state["cuda"]])


def gather() -> list[dict[str, Any]]:
    """The states of all processes, by rank; every process must call it."""
    return all_gather_object(capture())


def restore_own(states: list[dict[str, Any]]) -> None:
    """Puts back this process's state from `gather`; with another number of processes none fits, which is said."""
    rank = get_rank()
    if rank < len(states):
        restore(states[rank])
    else:
        print_log(f"the checkpoint has random states of {len(states)} process(es), none for rank {rank}", "current")


@contextmanager
def preserved(gpus: bool = True) -> Iterator[None]:
    """Whatever is drawn inside, the generators go on afterwards as if it had not been."""
    state = capture(gpus)
    try:
        yield
    finally:
        restore(state)


def derive(*numbers: int) -> int:
    """A 32-bit seed from non-negative integers, well mixed: neighbouring places get unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_all(seed: int) -> None:
    """Seeds all generators, those of GPUs too, with a 32-bit `seed`."""
    seed_cpu(seed)
    torch.manual_seed(seed)


def seed_cpu(seed: int) -> None:
    """Seeds the generators that loading data draws from; a tenth of the time of `seed_all`."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
