"""Which of many texts fit a picture."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from mmengine.dataset.utils import pseudo_collate
from torch import Tensor

from blip2.registry import INFERENCERS
from blip2.structures import DataSample

from .drawing import Drawing
from .encoding import TEXTS_AT_A_TIME, whole_number
from .fingerprints import digest_of_ids
from .gallery import Batch, Gallery, Prototype, texts_of
from .inputs import ImageInput, inputs_to_list
from .placement import autocast
from .retrieval import RetrievalInferencer, rerank
from .retrieval_drawing import MatchedTexts


@INFERENCERS.register_module()
class ImageToTextRetrievalInferencer(RetrievalInferencer):
    """Finds the texts that fit a picture; see `RetrievalInferencer` and `BaseInferencer` for the arguments.

    ``prototype`` is a list of texts, a file with a text a line, or a data set (or its config) whose samples have
    ``text``. They are cleaned as the model's config says.

    Examples:
        >>> from blip2 import ImageToTextRetrievalInferencer
        >>> texts = ["a red circle", "a blue square", "a green star"]
        >>> inferencer = ImageToTextRetrievalInferencer("blip2-tiny_shapes-retrieval", prototype=texts)
        >>> inferencer("demo/scene_1.png", topk=2)[0]  # doctest: +SKIP
        [{'match_score': 0.61, 'sample_idx': 1, 'text': 'a blue square'}, …]

    A result is a list of the `topk` (1) best matches, best first: ``match_score`` (the similarity; with
    ``fast_match=False`` the sum of similarity and matching score), ``sample_idx`` (the text's number) and ``text``. A
    data sample has ``pred_score``, a score for each text, and ``pred_label``, the number of the best.
    """

    task = "Image-To-Text Retrieval"
    holds = "texts"
    drawing: ClassVar[type[Drawing]] = MatchedTexts
    visualize_kwargs: ClassVar[frozenset[str]] = MatchedTexts.names()

    @property
    def kept(self) -> tuple[str, ...]:
        return ("text_feat",)

    @property
    def forward_kwargs(self) -> frozenset[str]:
        return frozenset({"topk"})

    def _prepare(self, prototype: Prototype, recursive: bool, place: str | Path | bool | None) -> Gallery:
        texts, gallery = texts_of(prototype)
        texts = self.clean(texts, "prototype")
        ids, mask, gallery.num_cut = self.model.tokenize(texts)
        lengths = mask.sum(1).tolist()
        digests = [digest_of_ids(row[:length]) for row, length in zip(ids.tolist(), lengths, strict=True)]

        def compute(missing: list[int]) -> Iterator[Batch]:
            for start in range(0, len(missing), TEXTS_AT_A_TIME):
                items = missing[start : start + TEXTS_AT_A_TIME]
                features = self.encode_texts([texts[item] for item in items])
                yield self.finite(gallery, items, [digests[item] for item in items], features)
                self._progress(start + len(items), len(missing))

        self.fill(gallery, digests, compute, place)
        chosen = torch.tensor(gallery.ranked, dtype=torch.long)
        gallery.features |= {"input_ids": ids[chosen], "attention_mask": mask[chosen]}
        return gallery

    def forward(self, batch: list[dict[str, Any]], **kwargs: Any) -> list[DataSample]:
        """One batch of the pipeline's outputs; each data sample also holds its ``topk`` ``matches``."""
        topk = whole_number("topk", kwargs.get("topk", 1))
        with torch.inference_mode(), autocast(self.device, self.precision):
            data = self.model.data_preprocessor(pseudo_collate(batch), False)
            scores = self.rank_texts(self.model.image_features(data["images"]))
        samples = data["data_samples"]
        names = [str(sample.get("img_path", f"the picture {index}")) for index, sample in enumerate(samples)]
        for sample in self.predictions(scores, samples, names):
            sample.matches = self.matches(sample, topk)
        return samples

    def result_of(self, index: int) -> dict[str, Any]:
        return {"text": self.gallery.infos[index]["text"]}

    def pack(self, data_sample: DataSample) -> Any:
        """The best matches, plain Python values."""
        return data_sample.matches

    def rank_texts(self, features: dict[str, Tensor]) -> Tensor:
        """Scores B×R of B pictures' features with the gallery's texts."""
        gallery = self.gallery.features
        similarity = self.model.itc_scores(features["image_feat"], gallery["text_feat"])
        if self.fast_match:
            return similarity
        embeds = features["image_embeds"]
        match = self.model.itm_scores
        return rerank(
            similarity, self.model.topk, lambda row, texts: match(embeds[row : row + 1], *self._tokens(texts))
        )

    def compare(
        self, images: ImageInput | Sequence[ImageInput], batch_size: int = 1, num_workers: int = 0
    ) -> list[dict[str, Any]]:
        """How each text fits each picture, by both measures, in the order of the texts.

        Returns:
            One dictionary a picture: ``itc`` (cosine of the best query's feature and the text's, −1 to 1) and ``itm``
            (the matching head's probability that they belong together, 0 to 1), lists with a number for each text,
            None for one without features; or ``error``, what was wrong with the picture.
        """
        items = inputs_to_list(images)
        results: list[dict[str, Any]] = [{} for _ in items]
        for indices, batch, errors in self.read_pictures(items, batch_size, num_workers):
            for index, error in errors.items():
                results[index] = {"error": str(error)}
            if not batch:
                continue
            features = self.encode_pictures(batch)
            with torch.inference_mode(), autocast(self.device, self.precision):
                itc = self.model.itc_scores(features["image_feat"], self.gallery.features["text_feat"])
                tokens = self._tokens(torch.arange(len(self.gallery.ranked)))
                itm = [self.model.itm_probabilities(row[None], *tokens) for row in features["image_embeds"]]
            for index, similarity, probability in zip(indices, itc, itm, strict=True):
                results[index] = {"itc": self.in_order(similarity), "itm": self.in_order(probability)}
        return results

    def _tokens(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask of the ranked texts with these numbers."""
        ids, mask = self.gallery.features["input_ids"], self.gallery.features["attention_mask"]
        return ids[texts.to(ids.device)], mask[texts.to(mask.device)]
