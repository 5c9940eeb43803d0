"""What a query is compared with: pictures or texts from anywhere, and their features, kept on disk."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import DataLoader

from blip2.registry import DATASETS
from blip2.utils.pictures import find_pictures

from .feature_cache import FeatureCache, FeatureCacheError, Rows, concatenate
from .fingerprints import digest_of_bytes
from .inputs import ImageInput, describe, inputs_to_list

Prototype: TypeAlias = str | Path | Sequence[Any] | dict[str, Any] | BaseDataset | DataLoader
# A batch of items with their digests and features; an item that could not be read comes with its error alone.
Batch = tuple[list[str], dict[str, Tensor]]


class GalleryError(ValueError):
    """Items of a gallery that cannot be used.

    Attributes:
        failures: the index of each such item, and what is wrong with it.
    """

    failures: dict[int, Exception]

    @classmethod
    def of(cls, failures: dict[int, Exception], names: Sequence[str], next_step: str) -> "GalleryError":
        """The error that names the first ten of `failures`."""
        lines = [f"  prototype[{index}] ({names[index]}): {reason(failures[index])}" for index in list(failures)[:10]]
        if len(failures) > len(lines):
            lines.append(f"  … and {len(failures) - len(lines)} more")
        error = cls(
            f"{len(failures)} of {len(names)} items of the prototype cannot be used:\n" + "\n".join(lines) + next_step
        )
        error.failures = failures
        return error


def reason(error: Exception) -> str:
    """What is wrong, without the picture's name where the error keeps it apart."""
    return str(getattr(error, "reason", error))


@dataclass
class Gallery:
    """The items of a prototype and the features of those that have some.

    Attributes:
        names: each item in words.
        infos: what a result tells of each item (``img_path`` of a picture, ``text`` of a text …).
        location: what names the gallery from one call to the next: the folder or file; None for a list.
        failures: items without features, and why.
        ranked: the numbers of the items that have features.
        features: tensors with a row for each of `ranked`.
        digests: of the contents of `ranked`.
        num_cut: texts longer than the model takes.
    """

    names: list[str]
    infos: list[dict[str, Any]]
    location: str | None = None
    failures: dict[int, Exception] = field(default_factory=dict)
    ranked: list[int] = field(default_factory=list)
    features: dict[str, Tensor] = field(default_factory=dict)
    digests: tuple[str, ...] = ()
    num_cut: int = 0

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: Rows, digests: Sequence[str | None]) -> None:
        """Keeps the features of the items, whose digests are `digests`, from `rows`."""
        row_of = {digest: row for row, digest in enumerate(rows.digests)}
        self.ranked = [item for item, digest in enumerate(digests) if digest in row_of]
        chosen = [row_of[digest] for digest in digests if digest in row_of]
        if chosen != list(range(len(rows.digests))):
            index = torch.tensor(chosen, dtype=torch.long)
            self.features = {name: tensor.index_select(0, index) for name, tensor in rows.tensors.items()}
        else:
            self.features = dict(rows.tensors)
        self.digests = tuple(rows.digests[row] for row in chosen)

    def spread(self, scores: Tensor) -> Tensor:
        """Scores of the ranked items, B×R, to scores of all items, B×M; minus infinity for those without features."""
        spread = scores.new_full((len(scores), len(self)), float("-inf"))
        spread[:, torch.tensor(self.ranked, dtype=torch.long, device=scores.device)] = scores
        return spread


# ----- what a prototype may be -----


def pictures_of(prototype: Prototype, recursive: bool = True) -> tuple[list[ImageInput], Gallery]:
    """The pictures of a folder, a list or a data set, and the gallery of them, still without features.

    Raises:
        TypeError, ValueError, FileNotFoundError: it is nothing of this kind, or holds no picture.
    """
    if isinstance(prototype, str | Path):
        folder = Path(prototype).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(
                f"prototype={str(prototype)!r} is no folder; wanted a folder of pictures, a list of them, or a data set"
            )
        found = find_pictures(folder, recursive=recursive)
        infos: list[dict[str, Any]] = [{"img_path": str(path)} for path in found]
        return list(found), Gallery([info["img_path"] for info in infos], infos, str(folder.resolve()))
    if (dataset := _dataset_of(prototype)) is not None:
        infos = [dict(dataset.get_data_info(index)) for index in range(len(dataset))]
        paths: list[Any] = [info.get("img_path") for info in infos]
        if not paths or not all(isinstance(path, str) for path in paths):
            raise ValueError(f"the data set {type(dataset).__name__} of the prototype names no pictures (img_path)")
        for info in infos:
            info.pop("sample_idx", None)
        return paths, Gallery(list(paths), infos)
    if isinstance(prototype, list | tuple) and not prototype:
        raise ValueError("prototype is an empty list: there is nothing to search in")
    items = inputs_to_list(prototype)  # type: ignore[arg-type]
    infos = [
        {"img_path": str(item)} if isinstance(item, str | Path) else {"description": describe(item)} for item in items
    ]
    return items, Gallery([describe(item) for item in items], infos)


def texts_of(prototype: Prototype) -> tuple[list[str], Gallery]:
    """The texts of a file (a line each; empty lines do not count), a list or a data set (``text``), and their gallery.

    Raises:
        TypeError, ValueError, FileNotFoundError: it is nothing of this kind, or holds no text.
    """
    location = None
    if isinstance(prototype, str | Path):
        path = Path(prototype).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"prototype={str(prototype)!r} is no file; wanted a file with a text a line, or a list of texts"
            )
        try:
            texts = [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
        except UnicodeDecodeError as error:
            raise ValueError(f"prototype={str(prototype)!r} is no text in UTF-8: {error}") from error
        texts = [text.rstrip("\r") for text in texts]
        location = str(path.resolve())
    elif (dataset := _dataset_of(prototype)) is not None:
        found = [dataset.get_data_info(index).get("text", []) for index in range(len(dataset))]
        texts = [text for item in found for text in ([item] if isinstance(item, str) else item)]
    elif isinstance(prototype, list | tuple):
        texts = list(prototype)
    else:
        raise TypeError(
            f"prototype is a {type(prototype).__name__}; wanted a list of texts, a file with a text a line, or a data "
            "set whose samples have a text"
        )
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"prototype[{index}] is a {type(text).__name__}; wanted a text")
    if not texts:
        raise ValueError(f"prototype ({location or type(prototype).__name__}) holds no text: there is nothing to rank")
    return texts, Gallery(list(texts), [{"text": text} for text in texts], location)


def _dataset_of(prototype: Prototype) -> Any:
    if isinstance(prototype, DataLoader):
        prototype = prototype.dataset  # type: ignore[assignment]
    if isinstance(prototype, dict):
        return DATASETS.build({"pipeline": [], **prototype})
    return prototype if hasattr(prototype, "get_data_info") else None


# ----- features -----


def digests_of_pictures(
    count: int, digest: Callable[[int], str], num_workers: int
) -> tuple[list[str | None], dict[int, Exception]]:
    """The digest of each of `count` pictures, None where it cannot be read, and why not. Reading is left to threads."""

    def attempt(index: int) -> str | Exception:
        try:
            return digest(index)
        except (OSError, ValueError) as error:
            return error

    with ThreadPoolExecutor(max(num_workers, 1)) as pool:
        found = list(pool.map(attempt, range(count)))
    failures = {index: value for index, value in enumerate(found) if isinstance(value, Exception)}
    return [value if isinstance(value, str) else None for value in found], failures


def features_of(
    digests: Sequence[str | None], compute: Callable[[list[int]], Iterator[Batch]], cache: FeatureCache | None
) -> Rows:
    """The features of all items with a digest: from the cache where it has them, else computed and put into it.

    Args:
        digests: of the items.
        compute: makes the features of the items with these numbers, batch by batch.
        cache: where features are kept; None for nowhere.

    An interruption leaves what was computed until then in the cache.
    """
    wanted = {digest: index for index, digest in reversed(list(enumerate(digests))) if digest is not None}
    known = None if cache is None else cache.read()
    used = [] if known is None else [row for row, digest in enumerate(known.digests) if digest in wanted]
    there = set() if known is None else {known.digests[row] for row in used}
    missing = sorted(index for digest, index in wanted.items() if digest not in there)
    if not missing:
        return known if known is not None else Rows((), {})
    if cache is not None:
        cache.check_place()
    made: list[Batch] = []
    if known is not None and used:
        index = torch.tensor(used, dtype=torch.long)
        kept = {name: tensor.index_select(0, index) for name, tensor in known.tensors.items()}
        made.append(([known.digests[row] for row in used], kept))
    before = len(made)
    try:
        for batch in compute(missing):
            made.append(batch)
    finally:
        parts = [features for digests, features in made if digests]
        rows = Rows(tuple(digest for part, _ in made for digest in part), concatenate(parts) if parts else {})
        if cache is not None and len(made) > before and parts:
            _keep(rows, cache)
    return rows


def _keep(rows: Rows, cache: FeatureCache) -> None:
    try:
        latest = cache.digests()
        if not set(rows.digests) <= latest:  # another process may have done more meanwhile
            cache.write(rows)
    except FeatureCacheError as error:
        print_log(f"{error}. The features at hand are right all the same", "current", logging.WARNING)


def finite_rows(digests: Sequence[str], features: dict[str, Tensor]) -> tuple[Batch, list[str]]:
    """The batch without rows that hold NaN or infinity, and the digests of those."""
    good = torch.ones(len(digests), dtype=torch.bool)
    for tensor in features.values():
        good &= tensor.flatten(1).isfinite().all(1).cpu()
    bad = [digest for digest, fine in zip(digests, good.tolist(), strict=True) if not fine]
    if not bad:
        return (list(digests), features), bad
    kept = [digest for digest, fine in zip(digests, good.tolist(), strict=True) if fine]
    return (kept, {name: tensor[good.to(tensor.device)] for name, tensor in features.items()}), bad


def list_name(kind: str, digests: Sequence[str | None], location: str | None, model: str) -> str:
    """The name of a gallery's file: by its place if it has one, so that a change replaces the file, else by content."""
    what = location if location is not None else ",".join(digest or "" for digest in digests)
    return f"{kind}-{digest_of_bytes(what.encode())[:16]}-{model[:16]}"
