"""A toy of what the retrieval loops need: a model that ranks in two steps as `Blip2Retrieval` does, and a gallery.

Configs name it in ``custom_imports``; its folder has to be on sys.path.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_dist_info
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.utils.data import Dataset

from blip2.registry import DATASETS, MODELS
from blip2.structures import DataSample

WIDTH = 6
TOPK = 3


def picture(number: int) -> Tensor:
    """The 1×1×WIDTH picture of this number, before and after its packing."""
    return torch.randn(1, 1, WIDTH, generator=torch.Generator().manual_seed(number))


def text_vector(text: str) -> Tensor:
    """The features of 'picture/seed': the picture's, disturbed."""
    owner, seed = map(int, text.split("/"))
    noise = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1000 + seed))
    return F.normalize(picture(owner).flatten() + 1.2 * noise, dim=0)


@MODELS.register_module(force=True)
class ToyRetrieval(BaseModel):
    """Similarity of vectors, and for the best `TOPK` a second score, shared out over the processes."""

    def __init__(self, bad: Sequence[str] = (), max_txt_len: int = 99) -> None:
        super().__init__(data_preprocessor={"type": "MultiModalDataPreprocessor"})
        self.scale = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.eye_(self.scale.weight)
        self.bad = tuple(bad)  # texts whose features come out as NaN
        self.max_txt_len = max_txt_len

    def forward(self, images: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        assert mode == "loss"
        return {"loss": self.scale(images).square().mean()}

    def image_features(self, images: Tensor) -> dict[str, Tensor]:
        embeds = self.scale(images.flatten(1))
        embeds = torch.where(images.flatten(1)[:, :1] > 1e6, torch.nan, embeds)
        feat = F.normalize(embeds, dim=-1)
        return {"image_embeds": embeds.view(-1, 2, WIDTH // 2), "image_feat": feat[:, None], "query_hidden": feat}

    def tokenize(self, texts: Sequence[str], device: Any = "cpu") -> tuple[Tensor, Tensor, int]:
        ids = torch.tensor([int(text.split("/")[1]) for text in texts], device=device)[:, None]
        return ids, torch.ones_like(ids), sum(len(text) > self.max_txt_len for text in texts)

    def text_features(self, texts: Sequence[str]) -> dict[str, Tensor]:
        rows = [text_vector(text) * (torch.nan if text in self.bad else 1) for text in texts]
        return {"text_feat": torch.stack(rows)}

    def predict_all(self, pictures: dict[str, Tensor], texts: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        similarity = pictures["image_feat"][:, 0] @ texts["text_feat"].T
        # The second score: an asymmetric function of the whole picture and the text's ids.
        second = pictures["image_embeds"].flatten(1).sum(1)[:, None] * (texts["input_ids"][:, 0] % 5)
        return _ranked_again(similarity, second), _ranked_again(similarity.T, second.T)


def _ranked_again(similarity: Tensor, second: Tensor) -> Tensor:
    rank, world_size = get_dist_info()
    scores = torch.zeros_like(similarity)
    for row in range(rank, len(similarity), world_size):
        best = similarity[row].topk(min(TOPK, similarity.shape[1])).indices
        scores[row] = -100
        scores[row, best] = similarity[row, best] + 0.1 * second[row, best]
    all_reduce(scores)
    return scores


@DATASETS.register_module(force=True)
class ToyGallery(Dataset):
    """Pictures, each with one to three texts; ids as the annotations of a larger file would have them."""

    def __init__(
        self,
        length: int = 7,
        bad: tuple[int, ...] = (),
        skip_bad_images: bool = False,
        not_finite: tuple[int, ...] = (),
        changes: dict[int, dict[str, Any]] | None = None,
    ) -> None:
        self.length, self.bad, self.not_finite = length, bad, not_finite
        self.changes = changes or {}
        self.skip_bad_images = skip_bad_images
        self.metainfo = {"name": "toy gallery"}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        if index in self.bad:
            return BadRecord(f"{index}.png", "broken")
        ids = [10 * index + number for number in range(1 + index % 3)]
        fields = {"text": [f"{index}/{i}" for i in ids], "gt_text_id": ids, "gt_image_id": [100 + index] * len(ids)}
        fields = {**fields, **self.changes.get(index, {})}
        sample = DataSample(metainfo={"image_id": 100 + index, "img_path": f"{index}.png"}, **fields)
        pixels = torch.full((1, 1, WIDTH), 1e9) if index in self.not_finite else picture(index)
        return {"inputs": pixels, "data_samples": sample}


class BadRecord:
    def __init__(self, img_path: str, reason: str) -> None:
        self.img_path, self.reason = img_path, reason

    def __str__(self) -> str:
        return f"{self.img_path}: {self.reason}"
