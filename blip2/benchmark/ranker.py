"""Retrieval with re-ranking both ways: this package's way, and upstream's with the same model.

Letters: B pictures, M texts, N patches and class token, Q queries, R pairs, T tokens, D width.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor

from blip2.models.blip2_retrieval import Blip2Retrieval
from blip2.models.contrastive import similarity
from blip2.models.retrieval_scoring import BEHIND

from .answers import Rankings
from .contender import Steps, timed
from .own import OwnModel
from .work import RetrievalWork, draw_texts

Features = Mapping[str, Tensor]


class Ranker(OwnModel):
    """`Blip2Retrieval`: a picture's cross-attention keys and values serve all its candidate texts, and a pair that is
    among the best both ways is matched once.
    """

    def __init__(self, model: Blip2Retrieval, config: Config, work: RetrievalWork) -> None:
        # The pipeline cleans a picture's texts; what is ranked here are the drawn ones, which need none.
        super().__init__(model, config, fields={"text": ["a picture"]})
        self.model = model
        self.work = work
        self.model.topk, self.model.fast_match = work.topk, False
        self.captions = draw_texts(work.texts, words=work.words)

    def sizes(self) -> dict[str, int]:
        """Of texts; for the report."""
        ids, _, _ = self.model.tokenize(self.captions)
        return {"text_tokens": ids.shape[1], "vocabulary": self.model.multimodal_backbone.config.vocab_size}

    def qformer(self, image_embeds: Tensor) -> Features:
        """B×N×D to what is compared with texts, ``image_feat``, and matched with them, ``image_embeds``."""
        with self.inference():
            image_feat = F.normalize(self.model.vision_neck(self.model.query_image(image_embeds)), dim=-1)
        return {"image_embeds": image_embeds, "image_feat": image_feat}

    def texts(self) -> Features:
        """``input_ids`` and ``attention_mask`` M×T, and ``text_feat`` M×D to be compared with pictures."""
        with self.inference():
            return self.model.text_features(self.captions)

    def ranking(self, pictures: Features, texts: Features) -> Rankings:
        with self.inference():
            return Rankings(*self.model.predict_all(pictures, texts, shared=False))

    def answer(self, files: Sequence[Path]) -> Rankings:
        images = self.decode(files)
        with self.inference():
            pictures = self.model.image_features(images)
        return self.ranking(pictures, self.texts())

    def steps(self, files: Sequence[Path]) -> Steps:
        images = self.decode(files)
        image_embeds = self.vision(images)
        pictures, texts = self.qformer(image_embeds), self.texts()
        return {
            "decode": timed("decode", lambda: self.decode(files), self.device),
            "vision": timed("vision", lambda: self.vision(images), self.device),
            "qformer": timed("qformer", lambda: self.qformer(image_embeds), self.device),
            "texts": timed("texts", self.texts, self.device),
            "ranking": timed("ranking", lambda: self.ranking(pictures, texts), self.device),
            "pipeline": timed("pipeline", lambda: self.answer(files), self.device),
        }

    def states(self, files: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
        images = self.decode(files)
        yield "picture decoding", images
        image_embeds = self.vision(images)
        yield "vision", image_embeds
        yield "Q-Former", self.qformer(image_embeds)["image_feat"]
        yield "texts", self.texts()["text_feat"]


class RepeatedRanker(Ranker):
    """The same model used as mmpretrain and LAVIS do: a picture's patch features are repeated for each candidate text
    and go through the whole Q-Former each time, first for all pictures, then for all texts.
    """

    name = "repeated"
    padded = False

    def ranking(self, pictures: Features, texts: Features) -> Rankings:
        embeds = pictures["image_embeds"]
        ids, mask = texts["input_ids"], texts["attention_mask"]
        if self.padded:
            missing = self.model.max_txt_len - ids.shape[1]
            ids, mask = F.pad(ids, (0, missing), value=self.model.tokenizer.pad_token_id), F.pad(mask, (0, missing))
        with self.inference():
            similar = similarity(pictures["image_feat"], texts["text_feat"])  # B×M
            i2t, t2i = torch.full_like(similar, -BEHIND), torch.full_like(similar.T, -BEHIND)
            for picture, row in enumerate(similar):
                near, best = row.topk(min(self.model.topk, len(row)))
                repeated = embeds[picture].repeat(len(best), 1, 1)
                i2t[picture, best] = near + self._match(repeated, ids[best], mask[best])
            for text, row in enumerate(similar.T):
                near, best = row.topk(min(self.model.topk, len(row)))
                repeated_ids, repeated_mask = (rows[text].repeat(len(best), 1) for rows in (ids, mask))
                t2i[text, best] = near + self._match(embeds[best], repeated_ids, repeated_mask)
        return Rankings(i2t, t2i)

    def _match(self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The logit of 'yes' of each pair, R numbers, for R×N×D, R×T, R×T."""
        queries = self.model.query_tokens.expand(len(input_ids), -1, -1)
        hidden = self.model.multimodal_backbone(
            query_embeds=queries,
            encoder_hidden_states=image_embeds,
            input_ids=input_ids,
            attention_mask=F.pad(attention_mask, (queries.shape[1], 0), value=1),
        )
        logits = self.model.multimodal_head(hidden[:, : queries.shape[1]])[..., 1].float()
        return logits.mean(dim=1) if logits.dim() == 2 else logits


class PaddedRanker(RepeatedRanker):
    """The same, and texts are padded to ``max_txt_len`` tokens however long they are."""

    name = "padded"
    padded = True
