"""Whether the data that a config names are there, whole and readable, before a long run finds out."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from blip2.datasets.base import BaseImageDataset, missing_pictures
from blip2.datasets.transforms.loading import read_image
from blip2.registry import DATASETS
from blip2.utils.annotations import read_captions
from blip2.utils.errors import AnnotationError, ImageError
from blip2.utils.published_files import PublishedFile, published_file
from blip2.utils.question_annotations import read_vqa

PARTS = ("train", "val", "test")
# The fields of datasets and metrics that name a file, in the order in which they are told.
FILE_FIELDS = ("question_file", "ann_file", "scene_file")
# Arguments that leave samples out, so that the counts can't be the published ones.
_SELECTING = ("indices", "answerable_only")


@dataclass
class DatasetReport:
    """What was found of one data set.

    Attributes:
        parts: the parts of the config that use it, out of `PARTS`.
        type: its class.
        files: the annotation files.
        pictures, texts: how many there are of each (captions, questions); None where that couldn't be told.
        published: how many there should be, for a published file that is used whole.
        decoded: how many pictures were decoded.
        problems: what is wrong, one text each; empty means that a run will find what it needs.
        notes: what is left out on purpose (``skip_bad_images``).
    """

    parts: list[str]
    type: str
    files: list[str]
    pictures: int | None = None
    texts: int | None = None
    published: PublishedFile | None = None
    decoded: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_datasets(cfg: Config, parts: Sequence[str] = PARTS, sample: int | None = 20) -> list[DatasetReport]:
    """Checks every data set of a config: files, counts, ids that belong together, pictures.

    Args:
        cfg: as `load_config` gives it.
        parts: which parts to look at.
        sample: how many pictures to decode, evenly spread over each data set; None means all.

    Raises:
        ValueError: the config has none of `parts`.
    """
    found: list[_Found] = []
    for part in parts:
        loader = cfg.get(f"{part}_dataloader")
        for settings in _leaves(loader.get("dataset")) if loader else ():
            known = next((one for one in found if one.settings == settings), None)
            if known is None:
                known = _checked(settings, sample)
                found.append(known)
            if part not in known.report.parts:
                known.report.parts.append(part)
        _check_metrics(cfg.get(f"{part}_evaluator"), [one for one in found if part in one.report.parts])
    if not found:
        lacking = ", ".join(f"{part}_dataloader" for part in parts)
        raise ValueError(f"{cfg.filename or 'the config'} has no data set to check: it lacks {lacking}")
    return [one.report for one in found]


def missing_files(cfg: Config, parts: Sequence[str] = PARTS) -> list[str]:
    """The annotation files that data sets and metrics name and that aren't there, each with where it comes from."""
    named: list[str] = []
    for part in parts:
        loader, metrics = cfg.get(f"{part}_dataloader"), cfg.get(f"{part}_evaluator")
        sources = [*_leaves(loader.get("dataset") if loader else None), *_dicts(metrics)]
        named += [path for settings in sources for path in _named_files(settings)]
    return [_missing(path) for path in dict.fromkeys(named) if not _is_there(path)]


@dataclass
class _Found:
    """A data set's settings, what is to be told of it, and the ids that metrics ask for, by their names."""

    settings: dict[str, Any]
    report: DatasetReport
    ids: dict[str, list[Any]] = field(default_factory=lambda: {"image_id": [], "question_id": []})


def _leaves(settings: Any) -> Iterator[dict[str, Any]]:
    """The data sets inside wrappers such as ``ConcatDataset``."""
    if not isinstance(settings, dict):
        return
    inner = settings.get("datasets") or ([settings["dataset"]] if "dataset" in settings else [])
    if not inner:
        yield dict(settings)
    for child in inner:
        yield from _leaves(child)


# ----- one data set -----


def _checked(settings: dict[str, Any], sample: int | None) -> _Found:
    files = _named_files(settings)
    report = DatasetReport([], str(settings.get("type")), files)
    found = _Found(settings, report)
    report.problems += [_missing(path) for path in files if not _is_there(path)]
    if report.problems:
        return found
    try:
        paths = _read(found)
    except (AnnotationError, ImageError, FileNotFoundError, NotADirectoryError) as error:
        report.problems.append(str(error))
        return found
    if files and not any(settings.get(name) for name in _SELECTING):
        report.published = published_file(files[0], settings.get("split", ""))
        report.problems += _miscounted(report)
    told = report.notes if settings.get("skip_bad_images") else report.problems
    missing = dict.fromkeys(missing_pictures(paths))
    told += _absent(missing)
    there = [path for path in paths if path not in missing]
    chosen = there if sample is None else _spread(there, sample)
    told += _undecodable(chosen)
    report.decoded = len(chosen)
    return found


def _read(found: _Found) -> list[str]:
    """Goes through the samples: counts and ids into `found`; the pictures, each once."""
    paths: dict[str, None] = {}
    texts = 0
    for info in _infos(found.settings):
        if "img_path" in info:
            paths[str(info["img_path"])] = None
        texts += _texts_in(info)
        for key, ids in found.ids.items():
            value = info.get(key, [])
            ids += value if isinstance(value, list) else [value]
    found.report.pictures, found.report.texts = len(paths), texts
    return list(paths)


def _named_files(settings: Mapping[str, Any]) -> list[str]:
    """The annotation files of a data set, or of a metric, which has no ``data_root``."""
    root = os.path.expanduser(settings.get("data_root") or "")
    named = [os.path.expanduser(settings[name]) for name in FILE_FIELDS if settings.get(name)]
    return [path if "://" in path else os.path.join(root, path) for path in named]


def _is_there(path: str) -> bool:
    return "://" in path or Path(path).exists()


def _missing(path: str) -> str:
    known = published_file(path)
    return f"there is no file {path}. {known.step if known else 'Check data_root and the file name'}"


def _infos(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What the data set knows of each sample. Pictures are looked for here, not by the data set, which names five."""
    with DefaultScope.overwrite_default_scope("blip2"):
        kind = DATASETS.get(str(settings.get("type")))
        ours = isinstance(kind, type) and issubclass(kind, BaseImageDataset)
        dataset = DATASETS.build({**settings, "pipeline": [], "check_images": False} if ours else dict(settings))
    if hasattr(dataset, "full_init"):
        dataset.full_init()
    if hasattr(dataset, "get_data_info"):
        yield from (dataset.get_data_info(index) for index in range(len(dataset)))


def _texts_in(info: Mapping[str, Any]) -> int:
    value = next((info[key] for key in ("question", "text", "gt_caption", "prompt") if info.get(key) is not None), ())
    return 1 if isinstance(value, str) else len(value)


def _miscounted(report: DatasetReport) -> Iterator[str]:
    if report.published is None:
        return
    for what in ("pictures", "texts"):
        found, wanted = getattr(report, what), getattr(report.published, what)
        if wanted is not None and found != wanted:
            yield (
                f"{report.files[0]} has {found:,} {what}, the published one {wanted:,}: it is cut off, or of another "
                f"split or version. {report.published.step}"
            )


def _absent(pictures: Collection[str]) -> Iterator[str]:
    """Missing pictures one by one, but those of a missing folder together."""
    folders = Counter(os.path.dirname(path) for path in pictures)
    gone = {folder for folder in folders if folder and not os.path.isdir(folder)}
    for folder in sorted(gone):
        yield f"there is no folder {folder} of {folders[folder]:,} pictures; docs/datasets.md says where they come from"
    yield from (f"there is no picture {path}" for path in pictures if os.path.dirname(path) not in gone)


def _spread(items: list[str], count: int) -> list[str]:
    """`count` of `items` at equal distances, the first and the last among them."""
    if count >= len(items):
        return items
    if count == 1:
        return items[:1]
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]


def _undecodable(paths: Sequence[str]) -> list[str]:
    def problem(path: str) -> str | None:
        try:
            read_image(path)
        except ImageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding runs outside Python's lock
        return [text for text in pool.map(problem, paths) if text]


# ----- metrics beside data sets -----


def _check_metrics(evaluators: Any, found: Sequence[_Found]) -> None:
    """What metrics read must be there, and know the pictures or questions of the part's data sets."""
    for metric in _dicts(evaluators) if found else ():
        report = found[-1].report
        missing = [path for path in _named_files(metric) if not _is_there(path)]
        problems = [f"{metric.get('type')}: {_missing(path)}" for path in missing]
        if not missing and not report.problems:
            problems = _unknown_to(metric, found)
        report.problems += [problem for problem in problems if problem not in report.problems]


def _dicts(evaluators: Any) -> list[dict[str, Any]]:
    listed = evaluators if isinstance(evaluators, list | tuple) else [evaluators]
    return [metric for metric in listed if isinstance(metric, dict)]


def _unknown_to(metric: Mapping[str, Any], found: Sequence[_Found]) -> list[str]:
    kind = str(metric.get("type")).rsplit(".", 1)[-1]
    known: set[int | str]
    try:
        if kind in ("COCOCaption", "NocapsCaption"):
            key, known = "image_id", {entry.image_id for entry in read_captions(metric["ann_file"]) if entry.captions}
        elif kind == "ReportVQA" and metric.get("question_file"):
            key, known = "question_id", {entry.question_id for entry in read_vqa(metric["question_file"])}
        else:
            return []
    except AnnotationError as error:
        return [f"{kind}: {error}"]
    unknown = [one for each in found for one in dict.fromkeys(each.ids[key]) if one not in known]
    if not unknown:
        return []
    source = _named_files(metric)[0]
    return [f"{kind}: {len(unknown)} {key}(s) of the data set aren't in {source}, such as {unknown[0]}"]
