"""Data loaders that give the same samples in the same way whatever the processes, workers and interruptions.

Training: each sample's augmentation draws from a seed made of (run's seed, place in the run), so neither the number
of workers nor a resume in the middle of an epoch changes it. Evaluation: batches are laid out once over the whole data
set and dealt to the processes, so that each sample comes once, in the same company, whoever computes it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.config import ConfigDict
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_dist_info
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from blip2.engine import random_state
from blip2.engine.errors import OptionError

# A sample by its place in the data set; several that are fetched and predicted as one (see `picture_groups`) by theirs.
Index = int | tuple[int, ...]


class Batch(NamedTuple):
    """What the loaders yield: `data` is what the collate function made of the readable samples."""

    data: Any
    indices: list[Index]  # of the readable samples
    bad: list[tuple[int, Any]]  # places and records of the others (see `blip2.datasets.BadImage`)


class Place(NamedTuple):
    """What to fetch, and the seed of its augmentation (None for none)."""

    sample: Index
    seed: int | None


class PlacedSamples(Dataset):
    """`dataset` asked by `Place`; answers (index, sample). Its other attributes are those of `dataset`.

    For several samples in one it is asked for ``joined(indices)``.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: Place) -> tuple[Index, Any]:
        index, seed = place
        if isinstance(index, tuple):
            return index, self.dataset.joined(index)
        if seed is None:
            return index, self.dataset[index]
        if get_worker_info() is not None:  # a worker's generators serve nothing else
            random_state.seed_cpu(seed)
            return index, self.dataset[index]
        with random_state.preserved(gpus=False):
            random_state.seed_cpu(seed)
            return index, self.dataset[index]

    def __getattr__(self, name: str) -> Any:
        # Only plain names: torch asks for `__getitems__`, which would go around `__getitem__`.
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)


class CollateReadable:
    """`collate` over the readable samples of a batch, which becomes a `Batch`."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: Sequence[tuple[Index, Any]]) -> Batch:
        good = [(index, sample) for index, sample in items if not is_bad_record(sample)]
        bad = [(one, sample) for index, sample in items if is_bad_record(sample) for one in places(index)]
        data = self.collate([sample for _, sample in good]) if good else None
        return Batch(data, [index for index, _ in good], bad)


def is_bad_record(sample: Any) -> bool:
    """Whether a data set gave the record of an unreadable picture in the place of a sample."""
    return hasattr(sample, "img_path") and hasattr(sample, "reason")


class TrainBatches(Sampler[list[Place]]):
    """The batches of a training run, from the one that is due.

    Args:
        batches: torch's or mmengine's batch sampler over one epoch.
        sampler: the sampler below it; its ``set_epoch`` starts another epoch.
        seed: the run's seed.
        endless: go on with the next epoch by itself (iteration-based loops).
    """

    def __init__(self, batches: Any, sampler: Any, seed: int, endless: bool) -> None:
        self.batches, self.sampler = batches, sampler
        self.seed, self.endless = seed, endless
        self.batch_size = getattr(batches, "batch_size", None)
        self.first = 0  # batches of this epoch (of the run, if endless) that are already done
        self.before = 0  # batches of earlier epochs; the loop keeps it

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Place]]:
        rank, _ = get_dist_info()
        for number, indices in enumerate(self._endless() if self.endless else self.batches):
            if number >= self.first:
                seed = random_state.derive(self.seed, self.before + number, rank)
                yield [Place(int(index), (seed + slot) % 2**32) for slot, index in enumerate(indices)]

    def _endless(self) -> Iterator[list[int]]:
        epoch = 0
        while True:
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)
            count = 0
            for indices in self.batches:
                count += 1
                yield indices
            if count == 0:
                raise OptionError("the training data give no batch: fewer samples than batch_size, with drop_last=True")
            epoch += 1


def train_loader(runner: Any, dataloader: DataLoader | dict, *, endless: bool) -> DataLoader:
    """The loader of a config's ``train_dataloader``, yielding `Batch`; its ``batch_sampler`` is `TrainBatches`."""
    plain = _plain_loader(runner, dataloader)
    batches = plain.batch_sampler
    if batches is None:
        raise OptionError("train_dataloader.batch_size must be given")
    sampler = getattr(batches, "sampler", plain.sampler)
    return _rebuilt(plain, TrainBatches(batches, sampler, runner.seed, endless))


def places(index: Index) -> tuple[int, ...]:
    return index if isinstance(index, tuple) else (index,)


def evaluation_batches(length: int, batch_size: int) -> list[list[Index]]:
    """The data set's indices in order, cut into batches; the last one may be short."""
    return [list(range(start, min(start + batch_size, length))) for start in range(0, length, batch_size)]


def joined_batches(groups: Sequence[Sequence[int]], batch_size: int) -> list[list[Index]]:
    """As `evaluation_batches`, of samples of which each group is fetched as one; a batch has `batch_size` at most."""
    batches: list[list[Index]] = [[]]
    room = batch_size
    for group in groups:
        for start in range(0, len(group), batch_size):
            part = tuple(group[start : start + batch_size])
            if len(part) > room:
                batches.append([])
                room = batch_size
            batches[-1].append(part)
            room -= len(part)
    return [batch for batch in batches if batch]


class OwnBatches(Sampler[list[Place]]):
    """Every ``world_size``-th batch of `layout`, from this process's rank on; nothing is padded."""

    def __init__(self, layout: Sequence[list[Index]], batch_size: int) -> None:
        rank, world_size = get_dist_info()
        self.layout = layout
        self.batches = list(layout)[rank::world_size]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Place]]:
        return ([Place(index, None) for index in indices] for indices in self.batches)


def evaluation_loader(runner: Any, dataloader: DataLoader | dict, stage: str, *, join: bool = False) -> DataLoader:
    """The loader of a config's ``val_dataloader`` or ``test_dataloader``, yielding `Batch`.

    With `join`, samples that the data set can give as one (``picture_groups``: questions about one picture) are, so
    that a picture is decoded and encoded once for all its questions.

    Raises `OptionError` for a sampler other than ``DefaultSampler``: the loop itself sees to it that each sample
    comes once.
    """
    plain = _plain_loader(runner, dataloader)
    if type(plain.sampler).__name__ not in ("DefaultSampler", "SequentialSampler") or plain.batch_size is None:
        raise OptionError(
            f"{stage}_dataloader: sampler {type(plain.sampler).__name__} or a batch_sampler of your own cannot be "
            "kept, because evaluation counts every sample once: use batch_size and "
            "sampler=dict(type='DefaultSampler', shuffle=False)"
        )
    if isinstance(plain.sampler, DefaultSampler) and plain.sampler.shuffle:
        runner.logger.warning(
            f"{stage}_dataloader: shuffle=True has no effect, evaluation goes through the data in order"
        )
    if plain.drop_last:
        runner.logger.warning(f"{stage}_dataloader: drop_last=True has no effect, every sample is evaluated")
    groups = plain.dataset.picture_groups() if join and hasattr(plain.dataset, "picture_groups") else None
    if groups is None:
        batches = evaluation_batches(len(plain.dataset), plain.batch_size)  # type: ignore[arg-type]
    else:
        batches = joined_batches(groups, plain.batch_size)
    return _rebuilt(plain, OwnBatches(batches, plain.batch_size))


def without_batches(loader: DataLoader, done: Callable[[int], bool]) -> tuple[DataLoader, list[int]]:
    """An evaluation loader over the batches of which not all samples are `done`, dealt anew; the samples of others."""
    batches: OwnBatches = loader.batch_sampler  # type: ignore[assignment]
    left: list[list[Index]] = []
    finished: list[int] = []
    for batch in batches.layout:
        samples = [place for index in batch for place in places(index)]
        if all(map(done, samples)):
            finished += samples
        else:
            left.append(batch)
    return _with_batches(loader, OwnBatches(left, batches.batch_size)), finished


def stop_workers(loader: DataLoader) -> None:
    """Ends the workers of a loader now; left to the garbage collector each may take five seconds."""
    iterator = loader._iterator
    if iterator is not None and hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()
        loader._iterator = None


def _plain_loader(runner: Any, dataloader: DataLoader | dict) -> DataLoader:
    if isinstance(dataloader, DataLoader):
        return dataloader
    if not isinstance(dataloader, dict):
        raise TypeError(f"a data loader must be a DataLoader or a config dict, not {type(dataloader).__name__}")
    settings = ConfigDict(dataloader)
    if "sampler" not in settings and "batch_sampler" not in settings:
        settings = ConfigDict(settings, sampler={"type": "DefaultSampler", "shuffle": False})
    if not settings.get("num_workers"):
        # torch refuses both without workers; a config may have been turned to num_workers=0 on the command line.
        settings = ConfigDict({k: v for k, v in settings.items() if k not in ("persistent_workers", "prefetch_factor")})
    diff_rank_seed = runner._randomness_cfg.get("diff_rank_seed", False)
    return runner.build_dataloader(settings, seed=runner.seed, diff_rank_seed=diff_rank_seed)


def _rebuilt(plain: DataLoader, batches: Sampler[list[Place]]) -> DataLoader:
    samples = PlacedSamples(plain.dataset)
    return _with_batches(plain, batches, dataset=samples, collate_fn=CollateReadable(plain.collate_fn))


def _with_batches(loader: DataLoader, batches: Sampler[list[Place]], **changes: Any) -> DataLoader:
    """A loader like `loader` over other batches; a loader's own parts cannot be exchanged."""
    workers: dict[str, Any] = {}
    if loader.num_workers:
        workers = {
            "prefetch_factor": loader.prefetch_factor,
            "persistent_workers": loader.persistent_workers,
            "multiprocessing_context": loader.multiprocessing_context,
        }
    return DataLoader(
        changes.get("dataset", loader.dataset),
        batch_sampler=batches,
        collate_fn=changes.get("collate_fn", loader.collate_fn),
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        # A generator of its own: with the global one each new iterator would draw a number from the training's.
        generator=torch.Generator(),
        **workers,
    )
