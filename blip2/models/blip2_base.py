"""`Blip2Base`: picture to query features, the part that the captioning, question answering and retrieval models
share.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from blip2.registry import MODELS, TOKENIZER

from .portions import Portions, joined
from .qformer.layers import KeysValues

PictureKeysValues = tuple[KeysValues | None, ...]  # of pictures, an entry for each layer of the Q-Former


class Blip2Base(BaseModel):
    """Image encoder, its layer norm, and the Q-Former with its queries (arXiv 2301.12597, section 3.1).

    Args:
        vision_backbone: config or module; called with B×3×H×W, it returns outputs of which the last is B×N×Dv; has
            `embed_dims`.
        multimodal_backbone: config or module of the Q-Former; has `hidden_size` and `num_query_token`.
        tokenizer: config, or a tokenizer with the methods of `LazyTokenizer`; read at first use.
        layer_norm_eps: of `ln_vision_backbone`: 1e-5 in mmpretrain and LAVIS, 1e-6 in Hugging Face.
        data_preprocessor: config or module; without a type it is a `MultiModalDataPreprocessor`.
        init_cfg: mmengine's initialisation config.
    """

    def __init__(
        self,
        vision_backbone: Mapping[str, Any] | nn.Module,
        multimodal_backbone: Mapping[str, Any] | nn.Module,
        tokenizer: Any = None,
        layer_norm_eps: float = 1e-5,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: Any = None,
    ) -> None:
        if not isinstance(data_preprocessor, nn.Module):
            data_preprocessor = {"type": "MultiModalDataPreprocessor", **(data_preprocessor or {})}
        super().__init__(data_preprocessor=build_part(data_preprocessor), init_cfg=init_cfg)
        self.tokenizer = TOKENIZER.build(dict(tokenizer)) if isinstance(tokenizer, Mapping) else tokenizer
        self.vision_backbone = build_part(vision_backbone)
        self.ln_vision_backbone = nn.LayerNorm(self.vision_backbone.embed_dims, eps=layer_norm_eps)
        self.multimodal_backbone = build_part(multimodal_backbone)
        self.query_tokens = nn.Parameter(
            torch.empty(1, self.multimodal_backbone.num_query_token, self.multimodal_backbone.hidden_size)
        )
        nn.init.normal_(self.query_tokens, std=0.02)
        self.portions = Portions()

    def encode_image(self, images: Tensor) -> Tensor:
        """Pictures B×3×H×W to patch features B×N×Dv, normalised."""
        return joined(self.portions.run("the image encoder", "pictures", self._encode_image, images))

    def _encode_image(self, images: Tensor) -> Tensor:
        features = self.vision_backbone(images.to(dtype_of(self.vision_backbone)))[-1]
        return self.ln_vision_backbone(features.to(dtype_of(self.ln_vision_backbone)))

    def query_image(self, image_embeds: Tensor) -> Tensor:
        """Patch features B×N×Dv to what the queries found in them, B×Q×D."""
        return joined(self.portions.run("the Q-Former", "pictures", self._query_image, image_embeds))

    def _query_image(self, image_embeds: Tensor) -> Tensor:
        queries = self.query_tokens.expand(len(image_embeds), -1, -1)
        return self.multimodal_backbone(query_embeds=queries, encoder_hidden_states=image_embeds.to(queries.dtype))

    def query_with_text(self, pictures: PictureKeysValues, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What the queries find together with R texts R×T, which they attend to and which attend to them: R×Q×D.

        `pictures` is what the Q-Former's `project_encoder` made of R pictures, or of R/k for k consecutive texts each.
        """
        queries = self.query_tokens.expand(len(input_ids), -1, -1)
        return self.multimodal_backbone(
            query_embeds=queries,
            encoder_keys_values=pictures,
            input_ids=input_ids,
            attention_mask=F.pad(attention_mask, (queries.shape[1], 0), value=1),
            num_outputs=queries.shape[1],
        )

    def train(self, mode: bool = True) -> "Blip2Base":
        """As usual, but parts whose parameters are all frozen stay in eval mode."""
        super().train(mode)
        if mode:
            for module in self.modules():
                parameters = list(module.parameters())
                if parameters and not any(parameter.requires_grad for parameter in parameters):
                    module.eval()
        return self


def build_part(part: Mapping[str, Any] | nn.Module, **defaults: Any) -> Any:
    """A module from its config; `defaults` fill what the config leaves open. A ready module is returned as it is."""
    return part if isinstance(part, nn.Module) else MODELS.build({**defaults, **part})


def select_pictures(pictures: PictureKeysValues, index: Tensor) -> PictureKeysValues:
    """The cross-attention keys and values of the pictures with these numbers."""
    return tuple(
        None if layer is None else (layer[0].index_select(0, index), layer[1].index_select(0, index))
        for layer in pictures
    )


def join_pictures(*groups: PictureKeysValues) -> PictureKeysValues:
    """The pictures of all `groups`, one after another."""
    layers = zip(*groups, strict=True)
    return tuple(
        None if parts[0] is None else (torch.cat([k for k, _ in parts]), torch.cat([v for _, v in parts]))
        for parts in layers
    )


def dtype_of(module: nn.Module) -> torch.dtype:
    """The dtype of a part's weights: inputs are cast at the borders, so that parts may differ in precision."""
    return next(module.parameters()).dtype
