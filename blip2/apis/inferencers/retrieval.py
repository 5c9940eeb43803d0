"""What the two retrieval inferencers share: a gallery with features kept on disk, and the best matches of a query."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import Tensor

from blip2.models.retrieval_scoring import BEHIND
from blip2.structures import DataSample
from blip2.utils.errors import LeftOutWarning

from .encoding import EncodingInferencer, whole_number
from .feature_cache import FeatureCache, FeatureCacheError, Rows, cache_path
from .fingerprints import digest_of_model
from .gallery import Batch, Gallery, GalleryError, Prototype, features_of, finite_rows, list_name

OnBadItem = Literal["raise", "skip"]
Progress = Callable[[int, int], None]

_NEXT_STEP = {
    "raise": "\non_bad_item='skip' leaves them out.",
    "skip": "\nThere is nothing else to search in.",
}


class BadFeaturesError(ValueError):
    """A query whose features are no numbers, so that nothing can be ranked by them."""


class RetrievalInferencer(EncodingInferencer):
    """Ranks the items of a prototype (a gallery) for each query.

    Args:
        model, pretrained, device, precision, kwargs: as in `BaseInferencer`; the model is a `Blip2Retrieval`.
        prototype: what is searched in; see the children.
        prototype_cache: where the prototype's features are kept: None for a file of its own in the folder
            ``prototypes`` of the package's cache (``$BLIP2_HOME``, else ``~/.cache/blip2``), False for nowhere, or a
            folder or a file. They are taken from there as long as the items' contents and the model's config and
            weights are the same; what differs is made anew, and only that where the model is the same.
        fast_match: rank by similarity alone. False has the model's matching head look at the best (`topk` of the
            model), for which features of whole pictures are kept: N×Dv numbers a picture, in memory and in the cache.
        prepare_batch_size: pictures of the prototype that go through the model together.
        on_bad_item: what happens to items of the prototype that cannot be read or whose features are NaN. 'raise': the
            others are done first, then `GalleryError` names each. 'skip': they are left out with a warning;
            `gallery.failures` names them.
        prepare_num_workers: threads that read the prototype's pictures.
        recursive: look into the subfolders of a prototype's folder too.
        progress: called after each batch of the prototype with the numbers of items done and to be done.
    """

    holds: ClassVar[str]  # 'pictures' or 'texts': what the gallery's items are

    def __init__(
        self,
        model: str | Path | Config | BaseModel,
        prototype: Prototype,
        prototype_cache: str | Path | bool | None = None,
        fast_match: bool = True,
        prepare_batch_size: int = 8,
        pretrained: bool | str | Path = True,
        device: str | torch.device | None = None,
        *,
        precision: str = "auto",
        on_bad_item: OnBadItem = "raise",
        prepare_num_workers: int = 2,
        recursive: bool = True,
        progress: Progress | None = None,
        **kwargs: Any,
    ) -> None:
        if on_bad_item not in ("raise", "skip"):
            raise ValueError(f"on_bad_item={on_bad_item!r} is neither 'raise' nor 'skip'")
        super().__init__(model, pretrained, device, precision=precision, **kwargs)
        if not hasattr(self.model, "itc_scores"):
            raise TypeError(f"{type(self.model).__name__} cannot compare pictures with texts; wanted a Blip2Retrieval")
        self.fast_match = fast_match
        self.prepare_batch_size = whole_number("prepare_batch_size", prepare_batch_size)
        self.prepare_num_workers = prepare_num_workers
        self._progress = progress or (lambda done, total: None)
        self._on_bad_item = on_bad_item
        self._model_digest = ""
        self._source = (prototype, recursive, prototype_cache)
        self.refresh()

    # ----- the gallery -----

    def refresh(self) -> None:
        """Looks at the prototype again: items that were added or have changed get their features."""
        self.gallery = self._prepare(*self._source)
        self._check_gallery()

    def _prepare(self, prototype: Prototype, recursive: bool, place: str | Path | bool | None) -> Gallery:
        raise NotImplementedError

    @property
    def kept(self) -> tuple[str, ...]:
        """The names of the features that the gallery keeps of an item."""
        raise NotImplementedError

    def cache_of(self, place: str | Path | bool | None, digests: Sequence[str | None], gallery: Gallery) -> Any:
        """The `FeatureCache` for a gallery, None where nothing is to be kept."""
        if place is False:
            return None
        try:
            self._model_digest = digest_of_model(self.model, self.config, self.precision)
        except ValueError as error:
            self.tell(f"the prototype's features are not kept on disk: {error}")
            return None
        kind = "-".join((self.holds, *(["whole"] if len(self.kept) > 1 else [])))
        name = list_name(kind, digests, gallery.location, self._model_digest)
        return FeatureCache(cache_path(None if place is True else place, name), self._model_digest, self.kept)

    def fill(
        self,
        gallery: Gallery,
        digests: Sequence[str | None],
        compute: Callable[[list[int]], Iterator[Batch]],
        place: str | Path | bool | None,
    ) -> None:
        """Gives `gallery` the features of its items, from the cache or from `compute`."""
        cache = self.cache_of(place, digests, gallery)
        try:
            rows = features_of(digests, compute, cache)
        except FeatureCacheError as error:
            if place not in (None, True):
                raise
            # The place is our choice, not the user's: no reason to stop.
            self.tell(str(error))
            rows = features_of(digests, compute, None)
        gallery.take(rows, digests)
        # An item that is there twice was tried once.
        why = {digests[item]: error for item, error in gallery.failures.items()}
        for item in set(range(len(gallery))) - set(gallery.ranked):
            gallery.failures.setdefault(item, why.get(digests[item], BadFeaturesError("it has no features")))

    def finite(
        self, gallery: Gallery, items: Sequence[int], digests: Sequence[str], features: dict[str, Tensor]
    ) -> Batch:
        """A batch of `items` without those whose features are no numbers; these are noted in `gallery`."""
        kept = {name: features[name].float() if name.endswith("_feat") else features[name] for name in self.kept}
        batch, bad = finite_rows(digests, {name: tensor.cpu() for name, tensor in kept.items()})
        for item, digest in zip(items, digests, strict=True):
            if digest in bad:
                gallery.failures[item] = BadFeaturesError("its features are NaN or infinite")
        return batch

    def save_prototype(self, path: str | Path) -> None:
        """Writes the gallery's features to `path`, where `prototype_cache` finds them."""
        digest = self._model_digest or digest_of_model(self.model, self.config, self.precision)
        rows = Rows(self.gallery.digests, {name: self.gallery.features[name] for name in self.kept})
        FeatureCache(Path(path), digest, self.kept).write(rows)

    def _check_gallery(self) -> None:
        gallery = self.gallery
        if gallery.failures and (self._on_bad_item == "raise" or not gallery.ranked):
            raise GalleryError.of(gallery.failures, gallery.names, _NEXT_STEP[self._on_bad_item])
        if gallery.failures:
            error = GalleryError.of(gallery.failures, gallery.names, "\nThey are left out.")
            self.tell(str(error), LeftOutWarning)
        self.tell_of_cut(gallery.num_cut, len(gallery))
        device = self.device
        gallery.features = {
            name: tensor if name == "image_embeds" else tensor.to(device) for name, tensor in gallery.features.items()
        }

    # ----- queries -----

    def predictions(self, scores: Tensor, data_samples: Sequence[DataSample], names: Sequence[str]) -> list[DataSample]:
        """Writes scores B×R of the ranked items into the queries' data samples.

        ``pred_score`` holds a score for each item of the prototype (minus infinity for those left out), ``pred_label``
        the number of the best one.

        Raises:
            BadFeaturesError: a query's scores are no numbers; names it.
        """
        bad = [name for name, row in zip(names, scores, strict=True) if row.isnan().any()]
        if bad:
            shown = ", ".join(bad[:5]) + (" …" if len(bad) > 5 else "")
            raise BadFeaturesError(
                f"the features of {shown} are NaN or infinite, so nothing can be ranked by them: check the model's "
                "weights, or use precision='fp32'"
            )
        for sample, row in zip(data_samples, self.gallery.spread(scores.float().cpu()), strict=True):
            sample.pred_score = row
            sample.pred_label = row.argmax(0, keepdim=True)
        return list(data_samples)

    def matches(self, data_sample: DataSample, topk: int) -> list[dict[str, Any]]:
        """The `topk` best items of the prototype, best first; fewer if it has no more, which is told once."""
        count = len(self.gallery.ranked)
        if topk > count:
            self.tell(f"topk={topk} is more than the {count} items that there are to rank: all are given")
        # Of equals the first comes first, which topk does not promise.
        scores, indices = data_sample.pred_score.sort(descending=True, stable=True)
        best = zip(scores[: min(topk, count)].tolist(), indices.tolist(), strict=False)
        return [{"match_score": score, "sample_idx": index, **self.result_of(index)} for score, index in best]

    def in_order(self, values: Tensor) -> list[float | None]:
        """One number for each item of the prototype from those R of the ranked ones; None for the others."""
        found = dict(zip(self.gallery.ranked, values.tolist(), strict=True))
        return [found.get(index) for index in range(len(self.gallery))]

    def result_of(self, index: int) -> dict[str, Any]:
        """What a match says of the item besides its score and number."""
        raise NotImplementedError


def rerank(similarity: Tensor, topk: int, match: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Scores like `similarity` (queries × items), in which the `topk` best of each row gain what `match` gives them.

    Args:
        match: called with a row and the numbers of its best items; gives a score for each.

    The others stay behind these, in their order.
    """
    scores = similarity.float().clone()
    count = min(topk, scores.shape[1])
    for row, (values, indices) in enumerate(zip(*similarity.float().topk(count), strict=True)):
        scores[row] -= BEHIND
        scores[row, indices] = values + match(row, indices).float()
    return scores
