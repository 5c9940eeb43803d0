"""The parts of `BEiTViT`. Letters: B pictures, N tokens (patches and class token), D width, H heads."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip2.models.linear import Linear, linear

from .pos_embed import add_relative_bias


class QuickGELU(nn.Module):
    """``x · sigmoid(1.702 x)``: the approximation of GELU that CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "GELU": nn.GELU,
    "QuickGELU": QuickGELU,
    "ReLU": nn.ReLU,
    "SiLU": nn.SiLU,
}
BIAS_CHOICES = ("qv_bias", True, False)


def build_norm(norm_cfg: dict[str, Any], width: int) -> nn.LayerNorm:
    """``dict(type='LN', eps=…)`` to a layer norm; anything else is refused."""
    options = dict(norm_cfg)
    kind = options.pop("type", None)
    unknown = set(options) - {"eps"}
    if kind not in ("LN", "LayerNorm") or unknown:
        raise ValueError(f"norm_cfg must be dict(type='LN', eps=...), not {dict(norm_cfg)}.")
    return nn.LayerNorm(width, **options)


def build_activation(act_cfg: dict[str, Any]) -> nn.Module:
    """``dict(type='GELU')`` and the like; other types and options are refused."""
    if act_cfg.get("type") not in ACTIVATIONS or len(act_cfg) > 1:
        raise ValueError(f"act_cfg must be dict(type=...) with one of {', '.join(ACTIVATIONS)}, not {dict(act_cfg)}.")
    return ACTIVATIONS[act_cfg["type"]]()


def dropout(rate: float) -> nn.Module:
    """Dropout, or nothing at all: `nn.Dropout(0)` still copies in training."""
    return nn.Dropout(rate) if rate else nn.Identity()


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training, a picture's branch is left out with probability `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(keep)
        return x * mask.div_(keep)


class PatchEmbed(nn.Module):
    """Cuts pictures into patches and projects each to D numbers."""

    def __init__(self, patch_size: tuple[int, int], in_channels: int, embed_dims: int, bias: bool = True) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Conv2d(in_channels, embed_dims, patch_size, stride=patch_size, bias=bias)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """How many patches a picture has downwards and across; a remainder counts as one more patch."""
        return -(-height // self.patch_size[0]), -(-width // self.patch_size[1])

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """B×C×H×W to B×(h·w)×D and the grid (h, w). A remainder is filled up with zeros at the bottom and the right."""
        height, width = images.shape[-2:]
        grid = self.grid_of(height, width)
        bottom, right = grid[0] * self.patch_size[0] - height, grid[1] * self.patch_size[1] - width
        if bottom or right:
            images = F.pad(images, (0, right, 0, bottom))
        tokens = self.projection(images.to(self.projection.weight.dtype))
        return tokens.flatten(2).transpose(1, 2), grid


class Attention(nn.Module):
    """Multi-head self-attention of BEiT.

    Args:
        bias: ``'qv_bias'`` for a bias on queries and values only (one on the keys could change nothing: it adds the
            same to all scores of a query), True for one on all three (``qkv.bias``), False for none.
        relative_grid: the patch grid for a relative position bias of its own, or None.
    """

    relative_position_index: Tensor
    relative_position_bias_table: nn.Parameter

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        bias: str | bool = "qv_bias",
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        relative_grid: tuple[int, int] | None = None,
        with_cls_token: bool = True,
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f"embed_dims={embed_dims} is not a multiple of num_heads={num_heads}.")
        if bias not in BIAS_CHOICES:
            raise ValueError(f"bias must be one of {BIAS_CHOICES}, not {bias!r}.")
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.has_qv_bias = bias == "qv_bias"
        if self.has_qv_bias:
            self.q_bias = nn.Parameter(torch.zeros(embed_dims))
            self.v_bias = nn.Parameter(torch.zeros(embed_dims))
        self.qkv = Linear(embed_dims, 3 * embed_dims, bias=bias is True)
        self.proj = Linear(embed_dims, embed_dims)
        self.proj_drop = dropout(proj_drop)
        self.has_relative_bias = relative_grid is not None
        if relative_grid is not None:
            add_relative_bias(self, relative_grid, num_heads, with_cls_token)

    def forward(self, x: Tensor, attn_bias: Tensor | None = None) -> Tensor:
        """B×N×D to B×N×D; `attn_bias` (H×N×N) is added to the scores, unless the layer has a bias of its own."""
        bias: Tensor | None = self.qkv.bias
        if self.has_qv_bias:
            bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv = linear(x, self.qkv.weight, bias).unflatten(2, (3, self.num_heads, -1))  # B×N×3×H×(D/H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.has_relative_bias:
            attn_bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if attn_bias is not None:
            attn_bias = attn_bias.to(q.dtype)
        dropout_p = self.attn_drop if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_bias, dropout_p=dropout_p)
        return self.proj_drop(self.proj(x.transpose(1, 2).flatten(2)))


class Expand(nn.Sequential):
    """Linear layer, activation and dropout, the first two in one pass where that is quicker."""

    def forward(self, x: Tensor) -> Tensor:
        layer: Any
        layer, activation, drop = self
        return drop(layer.activated(x, activation))


class FFN(nn.Module):
    """D → hidden → D, under mmcv's names (``layers.0.0`` and ``layers.1``)."""

    def __init__(self, embed_dims: int, hidden: int, act_cfg: dict[str, Any], drop: float) -> None:
        super().__init__()
        expand = Expand(Linear(embed_dims, hidden), build_activation(act_cfg), dropout(drop))
        self.layers = nn.Sequential(expand, Linear(hidden, embed_dims), dropout(drop))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class BEiTLayer(nn.Module):
    """One pre-norm transformer block. Its arguments are what an entry of ``layer_cfgs`` may set."""

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        layer_scale_init_value: float = 0.0,
        relative_grid: tuple[int, int] | None = None,
        with_cls_token: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        bias: str | bool = "qv_bias",
        act_cfg: dict[str, Any] | None = None,
        norm_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        norm_cfg = norm_cfg or {"type": "LN", "eps": 1e-6}
        self.ln1 = build_norm(norm_cfg, embed_dims)
        self.attn = Attention(
            embed_dims,
            num_heads,
            bias=bias,
            attn_drop=attn_drop_rate,
            proj_drop=drop_rate,
            relative_grid=relative_grid,
            with_cls_token=with_cls_token,
        )
        self.ln2 = build_norm(norm_cfg, embed_dims)
        self.ffn = FFN(embed_dims, feedforward_channels, act_cfg or {"type": "GELU"}, drop_rate)
        self.drop_path = DropPath(drop_path_rate)
        self.gamma_1: nn.Parameter | None = None
        self.gamma_2: nn.Parameter | None = None
        if layer_scale_init_value > 0:
            self.gamma_1 = nn.Parameter(torch.full((embed_dims,), float(layer_scale_init_value)))
            self.gamma_2 = nn.Parameter(torch.full((embed_dims,), float(layer_scale_init_value)))

    def forward(self, x: Tensor, attn_bias: Tensor | None = None) -> Tensor:
        x = x + self._branch(self.attn(self.ln1(x), attn_bias), self.gamma_1)
        return x + self._branch(self.ffn(self.ln2(x)), self.gamma_2)

    def _branch(self, x: Tensor, gamma: nn.Parameter | None) -> Tensor:
        return self.drop_path(x if gamma is None else x * gamma)
