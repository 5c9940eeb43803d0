"""Features of pictures, texts, or pictures together with texts."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from mmengine.dataset.utils import pseudo_collate
from torch import Tensor

from blip2.apis.hub import list_models
from blip2.registry import INFERENCERS
from blip2.utils.errors import MissingImageError
from blip2.utils.suggest import did_you_mean

from .base import OnError, one_each
from .encoding import TEXTS_AT_A_TIME, EncodingInferencer, whole_number
from .inputs import BadInputsError, ImageInput, describe, inputs_to_list, missing_files
from .placement import autocast

Stage = Literal["backbone", "qformer", "projection"]
Pool = Literal["mean", "first"]
# The names under which a model's `image_features` and `text_features` give each stage.
_OF_PICTURES = {"backbone": "image_embeds", "qformer": "query_hidden", "projection": "image_feat"}
_OF_TEXTS = {"qformer": "text_hidden", "projection": "text_feat"}


@INFERENCERS.register_module()
class FeatureExtractor(EncodingInferencer):
    """Extracts features; see `BaseInferencer` for the arguments of the constructor, and for what counts as a picture.

    Pictures' features can be had of every BLIP-2 model, those of texts and of pairs of a `Blip2Retrieval`.

    Examples:
        >>> from blip2 import FeatureExtractor
        >>> extractor = FeatureExtractor("blip2-tiny_shapes-retrieval")
        >>> extractor("demo/scene_1.png")[0].shape  # for comparing: a row a query, each of length 1  # doctest: +SKIP
        torch.Size([16, 96])
        >>> extractor(texts=["a red circle"])[0].shape  # to be compared with the rows above  # doctest: +SKIP
        torch.Size([96])
        >>> extractor("demo/scene_1.png", stage="qformer", pool="mean", normalize=True)  # doctest: +SKIP
        >>> extractor("demo/scene_1.png", texts="a red circle")  # the queries, having read the text  # doctest: +SKIP
    """

    def __call__(  # type: ignore[override]
        self,
        inputs: ImageInput | Sequence[ImageInput] | None = None,
        batch_size: int = 1,
        *,
        texts: str | Sequence[str] | None = None,
        stage: Stage | None = None,
        pool: Pool | None = None,
        normalize: bool = False,
        num_workers: int = 0,
        on_error: OnError = "raise",
    ) -> list[Any]:
        """Features of pictures, of texts, or of pictures each with its text.

        Args:
            inputs: one picture, a folder's path, or a list of pictures; None for texts alone.
            batch_size: pictures (or pairs) that go through the model together.
            texts: a text or a list of texts; with pictures, one for all or one for each.
            stage: 'backbone' (of a picture: N×Dv, a row for each patch and the class token, after the layer norm),
                'qformer' (Q×D, a row a query; of a text T×D, a row a token, [CLS] first; of a pair Q×D) or 'projection'
                (of a picture Q×P, of a text P, each row of length 1: what contrast compares). By default the projection
                if the model has one, and for pairs 'qformer'.
            pool: None for a row a token; 'mean' over the rows (a text's padding does not count), or the 'first' row.
            normalize: scale each row, or the pooled vector, to length 1.
            num_workers: threads that read pictures ahead.
            on_error: what happens to a list with pictures that cannot be read, as in `BaseInferencer`.

        Returns:
            One float32 tensor on the CPU for each input, in order.

        Raises:
            TypeError, ValueError: neither pictures nor texts, a stage that the model or the input does not have, a
                picture that cannot be read, an empty text, numbers of pictures and texts that do not go together.
        """
        self._check_options(batch_size, pool, on_error)
        self.model.eval()
        if inputs is None:
            if texts is None:
                raise TypeError("FeatureExtractor needs pictures (inputs), texts, or both")
            stage = self.check_stage(stage, _OF_TEXTS, "texts")
            rows: list[Any] = list(self._of_texts(self._cleaned(texts), stage))
            return self._finish(rows, [repr(text) for text in _listed(texts)], pool, normalize)
        items = inputs_to_list(inputs)
        if on_error == "raise" and (missing := missing_files(items)):
            raise MissingImageError(f"no such file: {', '.join(missing[:5])}" + (" …" if len(missing) > 5 else ""))
        if texts is None:
            stage, cleaned = self.check_stage(stage, _OF_PICTURES, "pictures"), None
        else:
            stage = self.check_stage(stage, ("qformer",), "pairs of picture and text")
            cleaned = self._cleaned(texts)
            cleaned = cleaned * len(items) if isinstance(texts, str) else one_each("texts", cleaned, len(items))
        rows, failures = self._of_pictures(items, cleaned, stage, batch_size, num_workers)
        results = self._finish(rows, [describe(item) for item in items], pool, normalize)
        if failures and on_error == "raise":
            if len(items) == 1:
                raise failures[0]
            raise BadInputsError.of_list(failures, items, results)
        return results

    @property
    def forward_kwargs(self) -> frozenset[str]:
        """Those of a call, which this class names itself."""
        return frozenset({"texts", "stage", "pool", "normalize"})

    def check_stage(self, stage: str | None, known: Any, what: str) -> Stage:
        """`stage`, or the default for `what`.

        Raises:
            ValueError: no such stage, or not of this kind of input, or the model has none.
        """
        can_compare = hasattr(self.model, "text_features")
        names = list(known)
        if not can_compare:
            if "backbone" not in names:
                raise ValueError(
                    f"{type(self.model).__name__} has no features of {what}: they need a retrieval model, such as "
                    f"{', '.join(list_models(task='Image-To-Text Retrieval')[:3])}"
                )
            names.remove("projection")
        if stage is None:
            return "projection" if "projection" in names else "qformer"
        if stage not in names:
            hint = did_you_mean(str(stage), get_args(Stage), count=1) if stage not in get_args(Stage) else ""
            raise ValueError(
                f"stage={stage!r}: of {what} a {type(self.model).__name__} has {', '.join(map(repr, names))}.{hint}"
            )
        return stage  # type: ignore[return-value]

    def _cleaned(self, texts: str | Sequence[str]) -> list[str]:
        cleaned = self.clean(_listed(texts))
        *_, num_cut = self.model.tokenize(cleaned)
        self.tell_of_cut(num_cut, len(cleaned))
        return cleaned

    def _of_texts(self, texts: list[str], stage: Stage) -> Iterator[Tensor]:
        for start in range(0, len(texts), TEXTS_AT_A_TIME):
            features = self.encode_texts(texts[start : start + TEXTS_AT_A_TIME])
            lengths = features["attention_mask"].sum(1).tolist()
            for row, length in zip(features[_OF_TEXTS[stage]], lengths, strict=True):
                yield row[:length] if stage == "qformer" else row

    def _of_pictures(
        self, items: list[ImageInput], texts: list[str] | None, stage: Stage, batch_size: int, num_workers: int
    ) -> tuple[list[Any], dict[int, Exception]]:
        rows: list[Any] = [None] * len(items)
        failures: dict[int, Exception] = {}
        for indices, batch, errors in self.read_pictures(items, batch_size, num_workers):
            failures |= errors
            if batch:
                own = None if texts is None else [texts[index] for index in indices]
                for index, row in zip(indices, self._encode(batch, own, stage), strict=True):
                    rows[index] = row
        for index, error in failures.items():
            rows[index] = {"error": str(error)}
        return rows, failures

    def _encode(self, batch: list[dict[str, Any]], texts: list[str] | None, stage: Stage) -> Tensor:
        if stage == "projection":
            return self.encode_pictures(batch)[_OF_PICTURES[stage]]
        with torch.inference_mode(), autocast(self.device, self.precision):
            images = self.model.data_preprocessor(pseudo_collate(batch), False)["images"]
            if texts is not None:
                return self.model.multimodal_features(images, texts)
            embeds = self.model.encode_image(images)
            return embeds if stage == "backbone" else self.model.query_image(embeds)

    def _finish(self, rows: list[Any], names: list[str], pool: Pool | None, normalize: bool) -> list[Any]:
        """Features as they were asked for; warns of those that are no numbers."""
        bad = []
        for index, row in enumerate(rows):
            if not isinstance(row, Tensor):
                continue
            row = row.float().cpu()
            if pool is not None and row.dim() > 1:
                row = row.mean(0) if pool == "mean" else row[0]
            rows[index] = F.normalize(row, dim=-1) if normalize else row.clone()
            if not row.isfinite().all():
                bad.append(names[index])
        if bad:
            shown = ", ".join(bad[:5]) + (" …" if len(bad) > 5 else "")
            self.tell(f"the features of {shown} are NaN or infinite")
        return rows

    @staticmethod
    def _check_options(batch_size: int, pool: str | None, on_error: str) -> None:
        whole_number("batch_size", batch_size)
        if pool is not None and pool not in get_args(Pool):
            raise ValueError(f"pool={pool!r} is none of None, 'mean', 'first'")
        if on_error not in get_args(OnError):
            raise ValueError(f"on_error={on_error!r} is neither 'raise' nor 'return'")

    @classmethod
    def list_models(cls, pattern: str | None = None) -> list[str]:
        """The names of the zoo's models, those that match `pattern` (with * and ?) if it is given."""
        return list_models(pattern)


def _listed(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)
