"""A retrieval model that knows colours, for tests of what lies around a model.

A text names the colour of the picture's left half and that of its right half. Similarity does not see which is which;
matching does. The features of a black picture, and of the word 'nan', are NaN.
"""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from blip2.registry import MODELS

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0), "nan": (0, 0, 0)}
COLOUR_TABLE = torch.tensor([(0.0, 0.0, 0.0)] * 3 + [tuple(map(float, colour)) for colour in COLOURS.values()])
WORDS = ("[PAD]", "[CLS]", "[SEP]", *COLOURS)


@MODELS.register_module(force=True)
class ToyRetriever(BaseModel):
    """Keeps the sizes of the batches of pictures and texts that it saw."""

    def __init__(self, topk: int = 256, max_txt_len: int = 5, data_preprocessor: dict | None = None) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.scale = nn.Linear(3, 3, bias=False)
        nn.init.eye_(self.scale.weight)
        self.topk = topk
        self.max_txt_len = max_txt_len
        self.pictures_seen: list[int] = []
        self.texts_seen: list[int] = []

    def forward(self, images=None, data_samples=None, mode="tensor"):
        raise NotImplementedError

    def encode_image(self, images: Tensor) -> Tensor:
        assert not self.training and torch.is_inference_mode_enabled()
        self.pictures_seen.append(len(images))
        half = images.shape[-1] // 2
        halves = [images[..., :half].mean((2, 3)), images[..., half:].mean((2, 3))]
        return self.scale(torch.stack(halves, 1) / 255)  # B×2×3

    def query_image(self, image_embeds: Tensor) -> Tensor:
        return 2 * image_embeds

    def image_features(self, images: Tensor) -> dict[str, Tensor]:
        embeds = self.encode_image(images)
        feat = embeds / embeds.norm(dim=-1, keepdim=True)
        return {"image_embeds": embeds, "query_hidden": self.query_image(embeds), "image_feat": feat}

    def tokenize(self, texts: Sequence[str], device: str = "cpu") -> tuple[Tensor, Tensor, int]:
        rows = [[1, *(WORDS.index(word) for word in text.split() if word in WORDS), 2] for text in texts]
        cut = [row if len(row) <= self.max_txt_len else [*row[: self.max_txt_len - 1], 2] for row in rows]
        ids = torch.zeros(len(cut), max(map(len, cut)), dtype=torch.long, device=device)
        for index, row in enumerate(cut):
            ids[index, : len(row)] = torch.tensor(row)
        return ids, (ids != 0).long(), sum(len(row) > self.max_txt_len for row in rows)

    def text_features(self, texts: Sequence[str]) -> dict[str, Tensor]:
        assert not self.training and torch.is_inference_mode_enabled()
        self.texts_seen.append(len(texts))
        ids, mask, _ = self.tokenize(texts)
        hidden = self.scale(COLOUR_TABLE[ids])  # M×T×3
        total = hidden.sum(1)
        feat = total / total.norm(dim=-1, keepdim=True)
        return {"text_hidden": hidden, "text_feat": feat, "input_ids": ids, "attention_mask": mask}

    def multimodal_features(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """B×2×3: the queries, each moved by the text."""
        return self.query_image(self.encode_image(images)) + self.text_features(texts)["text_feat"][:, None]

    def itc_scores(self, image_feat: Tensor, text_feat: Tensor) -> Tensor:
        return (image_feat.float() @ text_feat.float().T).amax(1)

    def itm_logits(self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        words = COLOUR_TABLE[input_ids[:, 1:3]]
        alike = nn.functional.cosine_similarity(image_embeds.float().expand(len(words), -1, -1), words, dim=-1)
        yes = 10 * alike.sum(-1) - 15
        return torch.stack([torch.zeros_like(yes), yes], 1)

    def itm_scores(self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.itm_logits(image_embeds, input_ids, attention_mask)[:, 1]

    def itm_probabilities(self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.itm_logits(image_embeds, input_ids, attention_mask).softmax(1)[:, 1]
