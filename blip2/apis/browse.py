"""From the predictions of a test to the items of a report."""

import json
import math
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope
from pycocoevalcap.rouge.rouge import Rouge

from blip2.evaluation import VQAAcc
from blip2.evaluation.vqa_answers import normalise_answer
from blip2.registry import DATASETS
from blip2.visualization.report import Line, ReportItem


class PredictionsError(ValueError):
    """A file that holds no predictions of a test, or not those of this config's test set."""


def read_predictions(path: str | Path) -> list[dict[str, Any]]:
    """What ``blip2 test … --out FILE --out-item pred`` wrote.

    Raises:
        PredictionsError: the file is something else. FileNotFoundError: there is none.
    """
    path = Path(path)
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
        else:
            content = pickle.loads(path.read_bytes())
    except (ValueError, pickle.UnpicklingError, EOFError) as error:
        raise PredictionsError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, list) or not content or not all(isinstance(sample, dict) for sample in content):
        raise PredictionsError(
            f"{path} holds no predictions: write them with `blip2 test CONFIG CHECKPOINT --out {path} --out-item pred`"
        )
    return content


def report_items(cfg: Config, predictions: Sequence[Mapping[str, Any]]) -> tuple[list[ReportItem], str]:
    """The predictions with their pictures and what would be right, from the config's test set; the scores' name.

    Captions are scored by ROUGE-L with their references (0 to 1, by pycocoevalcap, on words in lower case without
    punctuation: quick, and good enough to sort by), answers by VQA accuracy (0 to 100), retrieval by the mean of
    1 / rank of the first right text and of the right picture of each text (0 to 1; a rank beyond those that are kept
    counts 0). Without references the model's own score takes their place.

    Raises:
        PredictionsError: a prediction that the test set does not know, or of none of these tasks.
    """
    with DefaultScope.overwrite_default_scope("blip2"):
        dataset = DATASETS.build(cfg.test_dataloader["dataset"])
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    known = {_key(info): info for info in infos}
    for sample in predictions:
        if _key(sample) not in known:
            raise PredictionsError(
                f"the prediction of {_named(sample)} belongs to nothing in the test set of {cfg.filename} "
                f"({len(infos)} samples): give the config that the test ran with"
            )
    if "pred_answer" in predictions[0]:
        return [_answer(sample, known[_key(sample)]) for sample in predictions], "accuracy"
    if "pred_caption" in predictions[0]:
        items = [_caption(sample, known[_key(sample)]) for sample in predictions]
        return items, "ROUGE-L" if any(item.lines for item in items) else "log-probability"
    if "pred_text_id" in predictions[0]:
        texts = {i: text for info in infos for i, text in zip(info["gt_text_id"], _list(info["text"]), strict=True)}
        return [_ranking(sample, known[_key(sample)], texts) for sample in predictions], "1/rank"
    raise PredictionsError(f"predictions of no known task; they hold: {', '.join(sorted(predictions[0]))}")


def _key(sample: Mapping[str, Any]) -> tuple[str, Any]:
    field = "question_id" if sample.get("question_id") is not None else "image_id"
    return field, sample.get(field)


def _named(sample: Mapping[str, Any]) -> str:
    field, value = _key(sample)
    return f"{field} {value!r}"


def _list(value: Any) -> list[Any]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _picture(info: Mapping[str, Any]) -> tuple[str, Path]:
    path = Path(info["img_path"])
    return path.name, path


def _caption(sample: Mapping[str, Any], info: Mapping[str, Any]) -> ReportItem:
    said = _list(sample["pred_caption"])
    references = _list(info.get("gt_caption"))
    name, path = _picture(info)
    score = _number(sample.get("pred_score"))
    if references:
        score = float(Rouge().calc_score([_words(said[0])], [_words(text) for text in references]))
    return ReportItem(name, path, " / ".join(said), "", score, "references" * bool(references), _lines(references))


def _answer(sample: Mapping[str, Any], info: Mapping[str, Any]) -> ReportItem:
    said = _list(sample["pred_answer"])[0]
    truths = _list(info.get("gt_answer"))
    weights = _list(info.get("gt_answer_weight")) or [None] * len(truths)
    name, path = _picture(info)
    score = _number(sample.get("pred_score"))
    if truths:
        metric = VQAAcc()
        fields = {key: info.get(key) for key in ("question_id", "gt_answer", "gt_answer_weight")}
        metric.process(None, [{**fields, "pred_answer": said}])
        score = metric.results[-1]["scores"]["acc"]
    lines = [
        Line(
            f"{truth}" + (f" ({weight:.0%})" if weight is not None else ""),
            normalise_answer(truth) == normalise_answer(said),
        )
        for truth, weight in zip(truths, weights, strict=True)
    ]
    groups = [str(info[kind]) for kind in ("answer_type", "question_type") if info.get(kind)]
    question = str(info.get("question", sample.get("question", "")))
    return ReportItem(name, path, said, question, score, "true answers" * bool(truths), lines, groups)


def _ranking(sample: Mapping[str, Any], info: Mapping[str, Any], texts: Mapping[Any, str]) -> ReportItem:
    own, found = _list(info["gt_text_id"]), list(sample["pred_text_id"])
    ranks = [_rank(found, own)]
    lines = [
        Line(f"{texts.get(text, text)} ({score:.2f})", text in own)
        for text, score in zip(found[:5], sample["pred_text_score"], strict=False)
    ]
    for text, owner, pictures in zip(_list(info["text"]), info["gt_image_id"], sample["pred_image_id"], strict=True):
        ranks.append(_rank(pictures, [owner]))
        place = f"rank {ranks[-1]}" if ranks[-1] else f"not among the first {len(pictures)}"
        lines.append(Line(f"search for “{text}”: this picture has {place}", ranks[-1] == 1))
    name, path = _picture(info)
    score = sum(1 / rank if rank else 0.0 for rank in ranks) / len(ranks)
    return ReportItem(name, path, "", "", score, "texts found, and searches for this picture", lines)


def _rank(found: Sequence[Any], right: Iterable[Any]) -> int:
    """The place from 1 of the first right one, 0 if there is none."""
    right = list(right)
    return next((place for place, one in enumerate(found, start=1) if one in right), 0)


def _lines(texts: Iterable[str]) -> list[Line]:
    return [Line(text) for text in texts]


def _words(text: str) -> str:
    return " ".join("".join(char if char.isalnum() or char == "'" else " " for char in text.lower()).split())


def _number(value: Any) -> float | None:
    if isinstance(value, list):
        value = value[0] if value else None
    return float(value) if value is not None and math.isfinite(float(value)) else None
