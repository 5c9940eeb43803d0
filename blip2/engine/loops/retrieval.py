"""Validation and test of retrieval: features of all pictures and texts first, then the ranking both ways."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import get_dist_info, is_main_process
from torch import Tensor
from torch.utils.data import DataLoader

from blip2.engine.data import Batch, Place, places
from blip2.engine.errors import OptionError
from blip2.engine.feature_store import FeatureStore
from blip2.engine.gallery import Gallery, gallery_of, gather_rows
from blip2.engine.hooks import VisualizationHook
from blip2.engine.precision import autocast
from blip2.registry import LOOPS

from .evaluate import CHUNK, EvaluationLoop, TestLoop, ValLoop, as_dict

# How many texts go through the model together.
TEXTS = 256
# How many of the best candidates are kept with a picture's or a text's predictions.
KEPT = 10


class RetrievalLoop(EvaluationLoop):
    """Ranks all texts for each picture (``i2t``) and all pictures for each text (``t2i``).

    A sample of the data set is a picture with its texts: ``text``, and where they have ids ``gt_text_id``,
    ``gt_image_id`` and ``image_id`` (see `COCORetrieval`). Features are made batch by batch, each by the process that
    read the picture; then every process has them all and calls the model's ``predict_all``, which may share out the
    work. The evaluator is asked once for each direction: for each query it sees a sample with ``pred_score`` (for all
    candidates), ``pred_label`` (the best) and ``gt_label`` (the right ones). Scores have the names
    ``i2t/retrieval/Recall@1``, ``t2i/…`` as in mmpretrain, and ``mean/…`` for the mean of both.

    The model offers ``image_features(images)`` (rows ``image_feat``, ``image_embeds``), ``tokenize(texts)``,
    ``text_features(texts)`` (rows ``text_feat``) and ``predict_all``, as `Blip2Retrieval` does.

    Predictions of a picture are ``pred_text_id``, the ids of the best `KEPT` texts, and ``pred_text_score``, and for
    each of its texts, as lists, ``pred_image_id`` and ``pred_image_score``.

    Raises:
        OptionError: the model cannot rank.
        AnnotationError: a sample without texts, ids that are unknown or come twice (see `gallery_of`).
        FloatingPointError: features that are NaN or infinite; names the pictures and texts.
    """

    resumable = False

    def run(self) -> dict[str, Any]:
        model = self.runner.bare_model
        if not hasattr(model, "predict_all"):
            raise OptionError(
                f"{type(self).__name__} ranks pictures and texts with the model's predict_all, which "
                f"{type(model).__name__} does not have: use a Blip2Retrieval, or {self.stage}_cfg=dict()"
            )
        return super().run()

    # ----- features -----

    def predict(self, loader: DataLoader) -> tuple[dict[int, dict], dict[int, Any]]:
        """The samples, not ranked yet; pictures' features stay with the process that made them."""
        self._features: list[tuple[list[int], Tensor]] = []
        # N×Dv numbers a picture: too much for the memory of many a GPU.
        self._patches = FeatureStore(len(loader.dataset), self.runner.work_dir)  # type: ignore[arg-type]
        return super().predict(loader)

    @torch.no_grad()
    def run_iter(self, number: int, batch: Batch) -> dict[int, dict]:
        """Makes the features of one batch's pictures; the fields of each data sample by its index."""
        self._hook("before", "_iter", batch_idx=number, data_batch=batch.data)
        model = self.runner.bare_model
        with autocast(self._device_type(), self.precision):
            data = model.data_preprocessor(batch.data, False)
            features = model.image_features(data["images"])
        indices = [place for index in batch.indices for place in places(index)]
        self._features.append((indices, features["image_feat"]))
        if not getattr(model, "fast_match", False):
            self._patches.put(indices, features["image_embeds"])
        # Nothing is predicted before all features are there.
        self._hook("after", "_iter", batch_idx=number, data_batch=batch.data, outputs=[])
        return {index: as_dict(sample) for index, sample in zip(indices, data["data_samples"], strict=True)}

    def _image_features(self, order: Sequence[int]) -> dict[str, Tensor]:
        """The features of all pictures in the gallery's order: that of the indices `order`, which rise."""
        place_of = {index: place for place, index in enumerate(order)}
        rows = [([place_of[index] for index in indices], features) for indices, features in self._features]
        self._features = []
        gathered = {"image_feat": gather_rows(rows, len(order), self._device())}
        if not getattr(self.runner.bare_model, "fast_match", False):
            gathered["image_embeds"] = self._patches.gathered(order)
        return gathered

    def _text_features(self, texts: Sequence[str]) -> dict[str, Tensor]:
        model, device = self.runner.bare_model, self._device()
        ids, mask, num_cut = model.tokenize(texts, device)
        if num_cut:
            self.runner.logger.warning(
                f"{num_cut} of {len(texts)} texts are longer than the {model.max_txt_len} tokens that the model takes "
                "(max_txt_len), and cut"
            )
        rank, world_size = get_dist_info()
        own = []
        for start in range(rank * TEXTS, len(texts), world_size * TEXTS):
            rows = list(range(start, min(start + TEXTS, len(texts))))
            own.append((rows, model.text_features([texts[row] for row in rows])["text_feat"]))
        return {"text_feat": gather_rows(own, len(texts), device), "input_ids": ids, "attention_mask": mask}

    def _device(self) -> torch.device:
        return next(self.runner.model.parameters()).device

    # ----- ranking -----

    def evaluate(self, samples: dict[int, dict]) -> dict[str, Any]:
        """Ranks, adds the best candidates to `samples`, and scores both directions."""
        order = sorted(samples)
        ordered = [samples[index] for index in order]
        gallery = gallery_of(ordered)
        with torch.no_grad(), autocast(self._device_type(), self.precision):
            pictures = self._image_features(order)
            texts = self._text_features(gallery.texts)
            _refuse_not_finite(pictures, texts, gallery)
            i2t, t2i = self.runner.bare_model.predict_all(pictures, texts)
        del pictures
        self._patches.close()
        shape = len(gallery.picture_ids), len(gallery.texts)
        if tuple(i2t.shape) != shape or tuple(t2i.shape) != shape[::-1]:
            raise ValueError(
                f"predict_all gave scores {tuple(i2t.shape)} and {tuple(t2i.shape)} for {shape[0]} pictures and "
                f"{shape[1]} texts"
            )
        i2t, t2i = i2t.float().cpu(), t2i.float().cpu()
        _add_best(ordered, gallery, i2t, t2i)
        self._draw(order, gallery, i2t, t2i)
        text_queries = [{"text": text} for text in gallery.texts]
        metrics = {
            **self._score("i2t", i2t, ordered, gallery.texts_of_picture),
            **self._score("t2i", t2i, text_queries, gallery.pictures_of_text),
        }
        return {**metrics, **_means(metrics)}

    def _draw(self, order: Sequence[int], gallery: Gallery, i2t: Tensor, t2i: Tensor) -> None:
        """Has the hooks draw what was found; `order` holds the pictures' places in the data set."""
        dataset = self.dataloader.dataset

        def inputs_of(picture: int) -> Tensor:
            return dataset[Place(order[picture], None)][1]["inputs"]

        for hook in self.runner.hooks:
            if isinstance(hook, VisualizationHook) and is_main_process():
                hook.draw_ranking(
                    self.runner, gallery, i2t, t2i, inputs_of, self.runner.iter if self.stage == "val" else 0
                )

    def _score(self, name: str, scores: Tensor, queries: Sequence[dict], right: Sequence[list[int]]) -> dict[str, Any]:
        if is_main_process():
            for start in range(0, len(queries), CHUNK):
                chunk = range(start, min(start + CHUNK, len(queries)))
                self.evaluator.process(
                    [
                        {
                            **queries[row],
                            "pred_score": scores[row],
                            "pred_label": scores[row].argmax(keepdim=True),
                            "gt_label": right[row],
                        }
                        for row in chunk
                    ]
                )
        return {f"{name}/{key}": value for key, value in self.evaluator.evaluate(len(queries)).items()}


@LOOPS.register_module()
class RetrievalValLoop(RetrievalLoop, ValLoop):
    """Validation of retrieval; arguments as `EvaluationLoop`, behaviour as `RetrievalLoop`."""


@LOOPS.register_module()
class RetrievalTestLoop(RetrievalLoop, TestLoop):
    """Test of retrieval; arguments as `EvaluationLoop`, behaviour as `RetrievalLoop`.

    A picture's rank depends on all the others, so an interrupted test begins anew; the log of predictions is written
    once everything is ranked.
    """

    def evaluate(self, samples: dict[int, dict]) -> dict[str, Any]:
        metrics = super().evaluate(samples)
        if self.log is not None and is_main_process():
            self.log.write(samples)
        return metrics


def _refuse_not_finite(pictures: dict[str, Tensor], texts: dict[str, Tensor], gallery: Gallery) -> None:
    bad_pictures = _not_finite(pictures.values())
    bad_texts = _not_finite([texts["text_feat"]])
    if bad_pictures or bad_texts:
        names = [gallery.picture_names[row] for row in bad_pictures] + [repr(gallery.texts[row]) for row in bad_texts]
        raise FloatingPointError(
            f"the features of {len(bad_pictures)} picture(s) and {len(bad_texts)} text(s) are NaN or infinite and "
            f"cannot be ranked: {', '.join(names[:10])}{', …' if len(names) > 10 else ''}. Check the weights, or use "
            "--precision fp32"
        )


def _not_finite(features: Any) -> list[int]:
    rows: set[int] = set()
    for tensor in features:
        if tensor.sum(dtype=torch.float32).isfinite():
            continue
        # Row by row: a mask as large as all features would be too much.
        rows.update(row for row, values in enumerate(tensor) if not values.isfinite().all())
    return sorted(rows)


def _add_best(samples: Sequence[dict], gallery: Gallery, i2t: Tensor, t2i: Tensor) -> None:
    """Writes the ids and scores of the best candidates into the pictures' samples."""
    texts, pictures = i2t.topk(min(KEPT, i2t.shape[1])), t2i.topk(min(KEPT, t2i.shape[1]))
    text_ids = [[gallery.text_ids[place] for place in row] for row in texts.indices.tolist()]
    picture_ids = [[gallery.picture_ids[place] for place in row] for row in pictures.indices.tolist()]
    for row, sample in enumerate(samples):
        own = gallery.texts_of_picture[row]
        sample["pred_text_id"], sample["pred_text_score"] = text_ids[row], texts.values[row].tolist()
        sample["pred_image_id"] = [picture_ids[text] for text in own]
        sample["pred_image_score"] = [pictures.values[text].tolist() for text in own]


def _means(metrics: dict[str, Any]) -> dict[str, float]:
    """``mean/…`` of each score that both directions have."""
    means = {}
    for name, value in metrics.items():
        direction, _, score = name.partition("/")
        other = metrics.get(f"t2i/{score}")
        if direction == "i2t" and isinstance(value, int | float) and isinstance(other, int | float):
            means[f"mean/{score}"] = (value + other) / 2
    return means
