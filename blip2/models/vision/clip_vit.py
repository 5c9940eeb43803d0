"""`CLIPViT`: the image encoder of CLIP. With ViT-L/14's weights it is that of BLIP-2's smaller models."""

from collections.abc import Mapping, Sequence
from typing import Any

from blip2.registry import MODELS

from .beit_vit import BEiTViT


@MODELS.register_module()
class CLIPViT(BEiTViT):
    """Vision transformer of CLIP (Radford et al. 2021, arXiv 2103.00020) up to a block's raw output B×N×D.

    A `BEiTViT` with CLIP's choices: a norm before the first block (``pre_norm``), QuickGELU, a bias on keys too, none
    on the patch projection, epsilon 1e-5, and position embeddings that are interpolated with their corners aligned, as
    LAVIS does it. CLIP's final norm and projection are not built.

    Args:
        arch: dict of ``embed_dims``, ``num_layers``, ``num_heads``, ``feedforward_channels``; the default is ViT-L, of
            whose 24 blocks BLIP-2 uses the 23rd's output, so that no 24th is built.
        img_size, patch_size, in_channels, out_indices, drop_path_rate, frozen_stages, with_cp, init_cfg: see `BEiTViT`;
            ``pre_norm`` counts as an embedding.
        norm_cfg: ``dict(type='LN', eps=…)``.
    """

    has_pre_norm = True
    align_corners = True

    def __init__(
        self,
        arch: Mapping[str, int] | None = None,
        img_size: int | Sequence[int] = 224,
        patch_size: int | Sequence[int] = 14,
        in_channels: int = 3,
        out_indices: int | Sequence[int] = -1,
        drop_path_rate: float = 0.0,
        norm_cfg: Mapping[str, Any] | None = None,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            arch=arch or dict(embed_dims=1024, num_layers=23, num_heads=16, feedforward_channels=4096),
            img_size=img_size,
            patch_size=patch_size,
            in_channels=in_channels,
            out_indices=out_indices,
            drop_path_rate=drop_path_rate,
            bias=True,
            norm_cfg=norm_cfg or {"type": "LN", "eps": 1e-5},
            out_type="raw",
            frozen_stages=frozen_stages,
            use_abs_pos_emb=True,
            use_rel_pos_bias=False,
            layer_scale_init_value=0.0,
            patch_cfg={"bias": False},
            layer_cfgs={"act_cfg": {"type": "QuickGELU"}},
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
