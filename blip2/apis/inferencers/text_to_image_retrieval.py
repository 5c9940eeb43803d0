"""Which of many pictures fit a text, or resemble a picture."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from blip2.registry import INFERENCERS
from blip2.structures import DataSample
from blip2.utils.pictures import is_url

from .base import Prediction
from .download import read_url
from .drawing import Drawing
from .encoding import whole_number
from .fingerprints import digest_of_bytes, digest_of_file
from .gallery import Batch, Gallery, Prototype, digests_of_pictures, pictures_of
from .inputs import ImageInput, describe, inputs_to_list
from .placement import autocast
from .retrieval import RetrievalInferencer, rerank
from .retrieval_drawing import MatchedPictures


@INFERENCERS.register_module()
class TextToImageRetrievalInferencer(RetrievalInferencer):
    """Finds the pictures that fit a text; see `RetrievalInferencer` and `BaseInferencer` for the arguments.

    ``prototype`` is a folder of pictures, a list of pictures of any kind that `BaseInferencer` takes, or a data set,
    its config or its loader. All of them are read by the test pipeline of the model's config.

    Examples:
        >>> from blip2 import TextToImageRetrievalInferencer
        >>> inferencer = TextToImageRetrievalInferencer("blip2-tiny_shapes-retrieval", prototype="demo")
        >>> inferencer("a small red circle above a large blue square", topk=2)[0]  # doctest: +SKIP
        [{'match_score': 0.58, 'sample_idx': 3, 'sample': {'img_path': 'demo/scene_4.png'}}, …]

    A result is a list of the `topk` (1) best matches, best first: ``match_score`` (the similarity; with
    ``fast_match=False`` the sum of similarity and matching score), ``sample_idx`` (the picture's number) and ``sample``
    (what the prototype knows of it, its ``img_path`` at least). A data sample has ``text``, ``pred_score``, a score for
    each picture, and ``pred_label``, the number of the best.
    """

    task = "Text-To-Image Retrieval"
    holds = "pictures"
    drawing: ClassVar[type[Drawing]] = MatchedPictures
    visualize_kwargs: ClassVar[frozenset[str]] = MatchedPictures.names() - {"rescale_factor"}

    def __call__(  # type: ignore[override]
        self, inputs: str | Sequence[str], return_datasamples: bool = False, batch_size: int = 1, **kwargs: Any
    ) -> list[Any]:
        """The best pictures for each text.

        Args:
            inputs: a text or a list of texts.
            return_datasamples: gives `DataSample` objects instead of lists of matches.
            batch_size: texts that go through the model together.
            **kwargs: ``topk``, the number of matches; for drawing ``show_dir`` (a file a text: the text and the
                pictures found), ``show``, ``wait_time``, ``resize`` (the pictures' height), ``draw_score``,
                ``figsize``, ``text_cfg``.

        Raises:
            TypeError: an unknown argument, or something that is no text.
            ValueError: no text, or an empty one; a text whose features are NaN (`BadFeaturesError`).
        """
        predictions = self.stream(inputs, batch_size, **kwargs)
        return [result for prediction in predictions for result in self.results(prediction, return_datasamples)]

    def stream(  # type: ignore[override]
        self, inputs: str | Sequence[str], batch_size: int = 1, **kwargs: Any
    ) -> Iterator[Prediction]:
        """Like a call, but hands out predictions batch by batch; arguments are checked at the first step."""
        whole_number("batch_size", batch_size)
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        cleaned = self.clean(texts, "inputs")
        _, forward, visualize = self.dispatch(kwargs)
        topk = whole_number("topk", forward.get("topk", 1))
        *_, num_cut = self.model.tokenize(cleaned)
        self.tell_of_cut(num_cut, len(cleaned))
        for start in range(0, len(texts), batch_size):
            chunk = slice(start, start + batch_size)
            samples = [DataSample(text=text) for text in cleaned[chunk]]
            scores = self._scores(cleaned[chunk])
            self.predictions(scores, samples, [repr(text) for text in texts[chunk]])
            yield from self._predictions_of(samples, texts[chunk], start, topk, MatchedPictures(**visualize))

    def search_by_image(
        self, images: ImageInput | Sequence[ImageInput], topk: int = 1, **visualize: Any
    ) -> list[list[dict[str, Any]]]:
        """The gallery's pictures that resemble each of `images`; results and drawing as for a text.

        BLIP-2 is not trained to compare pictures with pictures. The score is the similarity that its contrast with
        texts leaves them: the cosine of the features of one query for both pictures, averaged over the queries (−1 to
        1, and 1 for the same picture). The matching head compares pictures with texts only, so `fast_match` makes no
        difference.
        """
        topk = whole_number("topk", topk)
        self.dispatch(visualize)
        items = inputs_to_list(images)
        results = []
        for indices, batch, errors in self.read_pictures(items, self.prepare_batch_size):
            for error in errors.values():
                raise error
            features = self.encode_pictures(batch)["image_feat"].float()
            gallery = self.gallery.features["image_feat"]
            scores = features.flatten(1) @ gallery.flatten(1).T / gallery.shape[1]
            samples = [DataSample() for _ in indices]
            names = [describe(items[index]) for index in indices]
            self.predictions(scores, samples, names)
            found = self._predictions_of(samples, names, indices[0], topk, MatchedPictures(**visualize))
            results += [self.pack(prediction.data_sample) for prediction in found if prediction.data_sample]
        return results

    # ----- the gallery -----

    @property
    def kept(self) -> tuple[str, ...]:
        return ("image_feat",) if self.fast_match else ("image_feat", "image_embeds")

    def _prepare(self, prototype: Prototype, recursive: bool, place: str | Path | bool | None) -> Gallery:
        self._items, gallery = pictures_of(prototype, recursive)
        digests, gallery.failures = digests_of_pictures(len(gallery), self._digest, self.prepare_num_workers)

        def compute(missing: list[int]) -> Iterator[Batch]:
            items = [self._items[index] for index in missing]
            done = 0
            for indices, batch, errors in self.read_pictures(items, self.prepare_batch_size, self.prepare_num_workers):
                gallery.failures |= {missing[index]: error for index, error in errors.items()}
                read = [missing[index] for index in indices]
                if batch:
                    features = self.encode_pictures(batch)
                    for item in read:
                        if isinstance(self._items[item], str | Path):
                            with suppress(OSError):  # gone, after it was read
                                digests[item] = self._digest(item)  # it may have changed since it was looked at
                    yield self.finite(gallery, read, [str(digests[item]) for item in read], features)
                done += len(indices) + len(errors)
                self._progress(done, len(missing))

        self.fill(gallery, digests, compute, place)
        return gallery

    def _digest(self, index: int) -> str:
        """Of the content of a picture of the prototype; what an address holds is fetched once and kept."""
        item = self._items[index]
        if isinstance(item, str) and is_url(item):
            item = self._items[index] = read_url(item)
        if isinstance(item, str | Path):
            return digest_of_file(item)
        if isinstance(item, bytes | bytearray | memoryview):
            return digest_of_bytes(bytes(item))
        pixels = self.pipeline.load(item)
        return digest_of_bytes(repr(pixels.shape).encode() + pixels.tobytes())

    # ----- queries -----

    def _scores(self, texts: Sequence[str]) -> Tensor:
        """Scores B×R of B cleaned texts with the gallery's pictures."""
        features = self.encode_texts(texts)
        gallery = self.gallery.features
        with torch.inference_mode(), autocast(self.device, self.precision):
            similarity = self.model.itc_scores(gallery["image_feat"], features["text_feat"]).T
            if self.fast_match:
                return similarity
            return rerank(similarity, self.model.topk, lambda row, pictures: self._match(features, row, pictures))

    def _match(self, features: dict[str, Tensor], row: int, pictures: Tensor) -> Tensor:
        """The matching head's logits for one text and the gallery's pictures of these numbers."""
        ids, mask = features["input_ids"][row], features["attention_mask"][row]
        found = []
        for chunk in pictures.cpu().split(self.prepare_batch_size):
            embeds = self.gallery.features["image_embeds"][chunk].to(ids.device)
            found.append(self.model.itm_scores(embeds, ids.expand(len(chunk), -1), mask.expand(len(chunk), -1)))
        return torch.cat(found)

    def _predictions_of(
        self, samples: Sequence[DataSample], names: Sequence[str], first: int, topk: int, drawing: MatchedPictures
    ) -> Iterator[Prediction]:
        for index, (sample, name) in enumerate(zip(samples, names, strict=True), start=first):
            sample.matches = self.matches(sample, topk)
            if drawing.wanted:
                found = [self.pipeline.load(self._items[match["sample_idx"]]) for match in sample.matches]
                drawing.draw_query(name, found, sample.matches, index)
            yield Prediction(index, name, sample)

    def result_of(self, index: int) -> dict[str, Any]:
        return {"sample": dict(self.gallery.infos[index])}

    def pack(self, data_sample: DataSample) -> Any:
        """The best matches, plain Python values."""
        return data_sample.matches

    @property
    def forward_kwargs(self) -> frozenset[str]:
        return frozenset({"topk"})

    @classmethod
    def is_single(cls, images: Any, *args: Any, **kwargs: Any) -> bool:
        """Whether a call with these arguments asks for one result: one text does."""
        return isinstance(images, str)
