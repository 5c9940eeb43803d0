"""The rows of the zoo's tables, measured again: a metafile's result, its config, and what comes out beside it."""

import fnmatch
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process

import blip2
from blip2.apis.config import load_config
from blip2.apis.dataset_check import missing_files
from blip2.apis.kept_predictions import keep_predictions
from blip2.apis.metafile import ModelEntry, Result
from blip2.apis.runner import build_runner
from blip2.engine.errors import OptionError
from blip2.engine.predictions import plain
from blip2.utils.files import written_whole

# Where the scores of a task stand among a run's, and by what they are multiplied for a table; `{}` is the metric's name
# in the metafile. The first that the run gives counts.
_CAPTION_NAMES = {"ROUGE-L": "ROUGE_L", **{f"BLEU-{n}": f"Bleu_{n}" for n in (1, 2, 3, 4)}}
_SCORES: dict[str, list[tuple[str, float]]] = {
    "Image Caption": [("{}", 100), ("scenes/{}", 1)],
    "Visual Question Answering": [("VQA/acc", 1), ("GQA/acc", 100)],
    "Image-To-Text Retrieval": [("i2t/retrieval/{}", 1)],
    "Text-To-Image Retrieval": [("t2i/retrieval/{}", 1)],
}
# The protocols whose accuracy of answers is the official one, not mmpretrain's.
_OFFICIAL = ("paper", "LAVIS")


@dataclass(frozen=True)
class Run:
    """One run of one config, and the results of the metafile that it measures."""

    config: Path
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Row:
    """One score: as published, as measured, and their difference; None for what a run doesn't give."""

    task: str
    dataset: str
    protocol: str | None
    config: str
    metric: str
    published: float
    measured: float | None
    difference: float | None


def runs_of(entry: ModelEntry, dataset: str = "*") -> tuple[list[Run], list[Result]]:
    """What has to be run to measure a model's results, and the results that no config is known for.

    A result that names its config is measured by it; the first one, and those with its data set and protocol, by the
    model's own.

    Args:
        entry: the model.
        dataset: only results whose data set is like this, without regard to case; ``*`` stands for any text.

    Raises:
        OptionError: no result is like `dataset`, or none has a score.
    """
    chosen: dict[Path, list[Result]] = {}
    open_results: list[Result] = []
    scored = [result for result in entry.results if result.metrics]
    wanted = [result for result in scored if fnmatch.fnmatchcase(result.dataset.lower(), dataset.lower())]
    if not wanted:
        names = ", ".join(dict.fromkeys(repr(result.dataset) for result in scored))
        raise OptionError(
            f"{entry.name} has no published score on {dataset!r}; its data sets: {names}"
            if scored
            else f"{entry.name} has no published score to compare with"
        )
    own = entry.results[0].dataset, entry.results[0].protocol
    for result in wanted:
        if result.config is not None:
            chosen.setdefault(result.config, []).append(result)
        elif (result.dataset, result.protocol) == own:
            chosen.setdefault(entry.config, []).append(result)
        else:
            open_results.append(result)
    return [Run(config, tuple(results)) for config, results in chosen.items()], open_results


def reproduce(
    entry: ModelEntry,
    runs: Sequence[Run],
    *,
    work_dir: str | Path,
    data_root: str | None = None,
    limit: int | None = None,
    resume: bool = True,
    cfg_options: Mapping[str, Any] | None = None,
    report: str | Path | None = None,
    **runner_options: Any,
) -> Iterator[list[Row]]:
    """Measures `runs` one after the other; gives the rows of each as soon as it is done.

    Predictions are kept in `work_dir` as they are made, so that the same call after an interruption goes on from there,
    and what was finished is only scored again.

    Args:
        entry: the model, with weights.
        runs: see `runs_of`.
        work_dir: a folder for each run is made in it.
        data_root: where the data lie, in the place of the configs' ``data_root``.
        limit: only the first so many samples: a trial, not the published protocol.
        resume: take up kept predictions.
        cfg_options: overrides of each config.
        report: a JSON file, written anew after each run: `Row` as objects, and all scores of each config.
        runner_options: as in `build_runner`: ``device``, ``precision``, ``launcher``, ``skip_bad_images``.

    Raises:
        OptionError: no weights; data of several roots with one `data_root`; a config that can't be tested.
        MissingAnnotationError: annotation files that aren't there, before the first run.
        Others as `build_runner` and the runner's ``test``.
    """
    if entry.weights is None:
        raise OptionError(f"{entry.name} has no weights to measure")
    folders = [Path(work_dir) / run.config.stem for run in runs]
    configs = [
        run_config(run, folder, data_root=data_root, limit=limit, cfg_options=cfg_options)
        for run, folder in zip(runs, folders, strict=True)
    ]
    _refuse_missing(configs)
    content: dict[str, Any] = {
        **{"model": entry.name, "weights": entry.weights, "version": blip2.__version__},
        **{"data_root": data_root, "limit": limit, "results": [], "scores": {}},
    }
    for run, cfg, folder in zip(runs, configs, folders, strict=True):
        runner = build_runner(cfg, work_dir=folder, checkpoint=entry.weights, test_only=True, **runner_options)
        keep_predictions(runner, resume=resume, keep_finished=resume)
        scores = runner.test()
        rows = compare(run, scores)
        content["results"] += [asdict(row) for row in rows]
        content["scores"][run.config.stem] = plain(scores)
        if report is not None and is_main_process():
            _write(Path(report), content)
        yield rows


def compare(run: Run, scores: Mapping[str, Any]) -> list[Row]:
    """The published scores of a run beside its own, on the scale of the published ones."""
    rows = []
    for result in run.results:
        for metric, published in result.metrics.items():
            measured = _measured(result, metric, scores)
            difference = None if measured is None else measured - published
            rows.append(
                Row(
                    result.task,
                    result.dataset,
                    result.protocol,
                    run.config.stem,
                    metric,
                    published,
                    measured,
                    difference,
                )
            )
    return rows


def _measured(result: Result, metric: str, scores: Mapping[str, Any]) -> float | None:
    places = _SCORES.get(result.task, [])
    if result.protocol in _OFFICIAL and result.task == "Visual Question Answering":
        places = [("VQA/official_acc", 1), *places[1:]]
    name = _CAPTION_NAMES.get(metric, metric)
    found = (scores[key.format(name)] * factor for key, factor in places if key.format(name) in scores)
    return next((float(score) for score in found), None)


# ----- configs -----


def run_config(
    run: Run,
    folder: Path,
    *,
    data_root: str | None = None,
    limit: int | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> Config:
    """The config of a run, with the data elsewhere and cut short on demand; arguments as in `reproduce`.

    Of a trial (`limit`) the file for a server is neither checked for gaps nor written where a whole one would be, but
    into `folder`.
    """
    cfg = load_config(run.config, cfg_options)
    for name in ("test_dataloader", "test_cfg", "test_evaluator"):
        if cfg.get(name) is None:
            raise OptionError(f"{run.config} has no {name}: it cannot be tested")
    if data_root is not None:
        _move_data(cfg, data_root)
    official = any(result.protocol in _OFFICIAL for result in run.results)
    for metric in cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]:
        if official and metric.type == "VQAAcc":
            metric.official = True
        if limit is not None and metric.type == "ReportVQA":
            metric.update(question_file=None, file_path=str(folder / Path(metric.file_path).name))
        if limit is not None and metric.type == "NocapsSave":
            metric.update(ann_file=None, save_dir=str(folder))
    if limit is not None:
        cfg.test_dataloader.dataset.indices = limit
    if (cfg.get("randomness") or {}).get("seed") is None:
        cfg.randomness = ConfigDict(seed=0)
    return cfg


def _move_data(cfg: Config, data_root: str) -> None:
    """Puts `data_root` in the place of the test data's ``data_root``, in the metrics' files as well."""
    before = cfg.test_dataloader.dataset.get("data_root")
    if not before:
        raise OptionError(f"{cfg.filename}: its test data have no data_root; move them with --cfg-options")

    def moved(text: str) -> str:
        inside = text == before or text.startswith(f"{before.rstrip('/')}/")
        return data_root.rstrip("/") + text[len(before.rstrip("/")) :] if inside else text

    for field in ("test_dataloader", "test_evaluator"):
        cfg[field] = _mapped(cfg[field], moved)


def _mapped(node: Any, change: Callable[[str], str]) -> Any:
    if isinstance(node, dict):
        return ConfigDict({key: _mapped(value, change) for key, value in node.items()})
    if isinstance(node, list | tuple):
        return type(node)(_mapped(item, change) for item in node)
    return change(node) if isinstance(node, str) else node


def _refuse_missing(configs: Sequence[Config]) -> None:
    missing = dict.fromkeys(text for cfg in configs for text in missing_files(cfg, ["test"]))
    if missing:
        raise OptionError("\n".join([*missing, "With --data-root DIR the data are looked for in another folder."]))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        partial.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
