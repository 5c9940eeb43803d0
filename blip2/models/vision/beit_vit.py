"""`BEiTViT`: the ViT of BEiT and EVA. With EVA-CLIP's ViT-g weights it is BLIP-2's image encoder."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn

from blip2.models.checks import check_choice, check_keys
from blip2.models.freeze import freeze
from blip2.models.gradient_checkpointing import run_layer
from blip2.registry import MODELS

from .layers import BEiTLayer, PatchEmbed, build_norm, dropout
from .pos_embed import INTERPOLATE_MODES, RelativePositionBias, resize_pos_embed, square_grid

ARCH_KEYS = ("embed_dims", "num_layers", "num_heads", "feedforward_channels")
# Sizes as in mmpretrain 1.2 (its 'small' is MMClassification's own).
ARCHS: dict[tuple[str, ...], tuple[int, int, int, int]] = {
    ("s", "small"): (768, 8, 8, 2304),
    ("b", "base", "deit-b", "deit-base"): (768, 12, 12, 3072),
    ("l", "large"): (1024, 24, 16, 4096),
    ("eva-g", "eva-giant"): (1408, 40, 16, 6144),
    ("deit-t", "deit-tiny"): (192, 12, 3, 768),
    ("deit-s", "deit-small"): (384, 12, 6, 1536),
}
OUT_TYPES = ("raw", "cls_token", "featmap", "avg_featmap")
LAYER_KEYS = (
    "num_heads",
    "feedforward_channels",
    "layer_scale_init_value",
    "drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "bias",
    "act_cfg",
    "norm_cfg",
)


@MODELS.register_module()
class BEiTViT(BaseModule):
    """Vision transformer of BEiT (arXiv 2106.08254) and EVA (arXiv 2211.07636), with mmpretrain's arguments and
    state-dict keys.

    BLIP-2 uses it with 39 blocks 1408 wide, absolute position embeddings, no layer scale and no final norm.

    Args:
        arch: name ('base', 'large', 'eva-g', …) or dict of ``embed_dims``, ``num_layers``, ``num_heads``,
            ``feedforward_channels``.
        img_size: height and width (or one number for both) that the position embeddings are made for. Pictures of other
            sizes are taken too: absolute position embeddings are interpolated as they run and, by a load hook, from a
            checkpoint of another (square) grid.
        patch_size: height and width of a patch, or one number.
        in_channels: channels of a picture.
        out_indices: index of the block whose output is wanted, or several; negative ones count from the end. Outputs
            come in the order of depth, and blocks behind the deepest one are not run.
        drop_rate: dropout after the position embeddings, the attention's projection and in the FFN.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0 at the first.
        bias: 'qv_bias' (queries and values), True or False, for the attention's input projection.
        norm_cfg: ``dict(type='LN', eps=…)``.
        final_norm: normalise the last block's output.
        out_type: 'raw' B×N×D with the class token, 'cls_token' B×D, 'featmap' B×D×h×w, 'avg_featmap' B×D (patches
            averaged, then normalised).
        with_cls_token: put a learned class token before the patches.
        frozen_stages: -1 freezes nothing, 0 the embeddings (patches, positions, class token, shared bias), k also the
            first k blocks, all blocks also the final norms. What is frozen stays in eval mode. (In mmpretrain 0 freezes
            nothing.)
        use_abs_pos_emb: learned absolute position embeddings.
        use_rel_pos_bias: a relative position bias in each block; for pictures of `img_size` only.
        use_shared_rel_pos_bias: one relative position bias for all blocks; for pictures of `img_size` only.
        interpolate_mode: 'bicubic', 'bilinear' or 'nearest', for the absolute position embeddings.
        layer_scale_init_value: start value of the learned scale on each branch; 0 for none. (mmpretrain applies
            `drop_path_rate` twice to the FFN branch; here it is once.)
        patch_cfg: may set ``bias`` of the patch projection.
        layer_cfgs: overrides for the blocks, one dict for all or one for each; of the keys in `LAYER_KEYS`.
        with_cp: gradient checkpointing: blocks that train compute their activations again on the way back instead of
            keeping them, for about a third more time.
        init_cfg: mmengine's initialisation config.
    """

    # What tells a CLIP encoder from this one: see `CLIPViT`.
    has_pre_norm = False
    align_corners = False

    def __init__(
        self,
        arch: str | Mapping[str, int] = "base",
        img_size: int | Sequence[int] = 224,
        patch_size: int | Sequence[int] = 16,
        in_channels: int = 3,
        out_indices: int | Sequence[int] = -1,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        bias: str | bool = "qv_bias",
        norm_cfg: Mapping[str, Any] | None = None,
        final_norm: bool = False,
        out_type: str = "avg_featmap",
        with_cls_token: bool = True,
        frozen_stages: int = -1,
        use_abs_pos_emb: bool = False,
        use_rel_pos_bias: bool = True,
        use_shared_rel_pos_bias: bool = False,
        interpolate_mode: str = "bicubic",
        layer_scale_init_value: float = 0.1,
        patch_cfg: Mapping[str, Any] | None = None,
        layer_cfgs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        sizes = _arch_sizes(arch)
        self.embed_dims, self.num_layers = sizes["embed_dims"], sizes["num_layers"]
        self.img_size = _pair("img_size", img_size)
        self.out_indices = _block_indices(out_indices, self.num_layers)
        check_choice("out_type", out_type, OUT_TYPES)
        check_choice("interpolate_mode", interpolate_mode, INTERPOLATE_MODES)
        if out_type == "cls_token" and not with_cls_token:
            raise ValueError("out_type='cls_token' needs with_cls_token=True.")
        if use_rel_pos_bias and use_shared_rel_pos_bias:
            raise ValueError("Choose one of use_rel_pos_bias and use_shared_rel_pos_bias, not both.")
        if not -1 <= frozen_stages <= self.num_layers:
            raise ValueError(f"frozen_stages must be from -1 to {self.num_layers} (all blocks), not {frozen_stages}.")
        self.out_type, self.interpolate_mode, self.frozen_stages = out_type, interpolate_mode, frozen_stages
        self.with_cp = with_cp
        norm = dict(norm_cfg or {"type": "LN", "eps": 1e-6})

        check_keys("patch_cfg", patch_cfg or {}, ("bias",))
        self.patch_embed = PatchEmbed(
            _pair("patch_size", patch_size), in_channels, self.embed_dims, **(patch_cfg or {})
        )
        self.patch_resolution = self.patch_embed.grid_of(*self.img_size)
        self._add_embeddings(with_cls_token, use_abs_pos_emb)
        self.pre_norm = build_norm(norm, self.embed_dims) if self.has_pre_norm else None
        self.drop_after_pos = dropout(drop_rate)
        self.rel_pos_bias = None
        if use_shared_rel_pos_bias:
            self.rel_pos_bias = RelativePositionBias(self.patch_resolution, sizes["num_heads"], with_cls_token)
        self.has_relative_bias = use_rel_pos_bias or use_shared_rel_pos_bias

        common = {
            "num_heads": sizes["num_heads"],
            "feedforward_channels": sizes["feedforward_channels"],
            "layer_scale_init_value": layer_scale_init_value,
            "relative_grid": self.patch_resolution if use_rel_pos_bias else None,
            "with_cls_token": with_cls_token,
            "drop_rate": drop_rate,
            "bias": bias,
            "norm_cfg": norm,
        }
        drop_paths = torch.linspace(0, drop_path_rate, self.num_layers, device="cpu").tolist()
        self.layers = nn.ModuleList(
            BEiTLayer(self.embed_dims, **{**common, "drop_path_rate": drop_path, **own})
            for drop_path, own in zip(drop_paths, _each_layer_cfg(layer_cfgs, self.num_layers), strict=True)
        )
        self.ln1 = build_norm(norm, self.embed_dims) if final_norm else None
        self.ln2 = build_norm(norm, self.embed_dims) if out_type == "avg_featmap" else None
        self._freeze_stages()

    def _add_embeddings(self, with_cls_token: bool, use_abs_pos_emb: bool) -> None:
        self.num_extra_tokens = int(with_cls_token)
        num_tokens = self.num_extra_tokens + self.patch_resolution[0] * self.patch_resolution[1]
        self.cls_token = nn.Parameter(torch.empty(1, 1, self.embed_dims)) if with_cls_token else None
        self.pos_embed = nn.Parameter(torch.empty(1, num_tokens, self.embed_dims)) if use_abs_pos_emb else None
        for embedding in (self.cls_token, self.pos_embed):
            if embedding is not None:
                nn.init.trunc_normal_(embedding, std=0.02)
        if use_abs_pos_emb:
            self.register_load_state_dict_pre_hook(_resize_loaded_pos_embed)

    def train(self, mode: bool = True) -> "BEiTViT":
        super().train(mode)
        self._freeze_stages()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Pictures B×C×H×W to one output (see `out_type`) for each of `out_indices`, the shallowest first."""
        x, grid = self.embed(x)
        attn_bias = None if self.rel_pos_bias is None else self.rel_pos_bias()

        outputs = []
        for index, layer in enumerate(self.layers):
            x = run_layer(layer, x, attn_bias, with_cp=self.with_cp)
            if index in self.out_indices:
                last = index == self.num_layers - 1
                outputs.append(self._output(self.ln1(x) if last and self.ln1 is not None else x, grid))
            if index == self.out_indices[-1]:
                break
        return tuple(outputs)

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Pictures B×C×H×W to what the first block reads, B×N×D, and their patch grid (h, w)."""
        x, grid = self.patch_embed(images)  # B×(h·w)×D
        self._check_grid(grid)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)  # B×N×D
        if self.pos_embed is not None:
            x = x + self._resized(self.pos_embed, self.patch_resolution, grid)
        x = x if self.pre_norm is None else self.pre_norm(x)
        return self.drop_after_pos(x), grid

    def _resized(self, pos_embed: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
        return resize_pos_embed(
            pos_embed, source, target, self.interpolate_mode, self.num_extra_tokens, self.align_corners
        )

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """How deep a parameter lies, and the number of depths; for layer-wise decay of the learning rate.

        0 for the embeddings, k for the k-th block, and behind the blocks everything else.
        """
        num_depths = self.num_layers + 2
        name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix):
            return num_depths - 1, num_depths
        if name in ("cls_token", "pos_embed") or name.startswith(("patch_embed.", "pre_norm.")):
            return 0, num_depths
        if name.startswith("layers."):
            return int(name.split(".")[1]) + 1, num_depths
        return num_depths - 1, num_depths

    def _output(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.out_type == "raw":
            return x
        if self.out_type == "cls_token":
            return x[:, 0]
        patches = x[:, self.num_extra_tokens :]
        if self.out_type == "featmap":
            return patches.transpose(1, 2).unflatten(2, grid)
        assert self.ln2 is not None
        return self.ln2(patches.mean(dim=1))

    def _check_grid(self, grid: tuple[int, int]) -> None:
        if self.has_relative_bias and grid != self.patch_resolution:
            raise ValueError(
                f"The relative position bias is made for pictures of {self.img_size[0]}×{self.img_size[1]} "
                f"({self.patch_resolution[0]}×{self.patch_resolution[1]} patches); these have {grid[0]}×{grid[1]}. "
                "Resize the pictures, or build the model with their img_size."
            )

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        parts: list[nn.Module | nn.Parameter | None] = [
            self.patch_embed,
            self.cls_token,
            self.pos_embed,
            self.pre_norm,
            self.drop_after_pos,
            self.rel_pos_bias,
            *self.layers[: self.frozen_stages],
        ]
        if self.frozen_stages == self.num_layers:
            parts += [self.ln1, self.ln2]
        freeze(*(part for part in parts if part is not None))


def _resize_loaded_pos_embed(module: BEiTViT, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Load hook: position embeddings of another square grid are interpolated to the model's; one line says so in the
    log.

    A checkpoint whose grid cannot be told is left as it is, and `load_state_dict` names both shapes.
    """
    key = prefix + "pos_embed"
    loaded = state_dict.get(key)
    assert module.pos_embed is not None
    if loaded is None or loaded.dim() != 3 or loaded.shape == module.pos_embed.shape:
        return
    grid = square_grid(loaded.shape[1] - module.num_extra_tokens)
    if grid is None or loaded.shape[2] != module.embed_dims:
        return
    target = module.patch_resolution
    state_dict[key] = module._resized(loaded, grid, target)
    print_log(
        f"{key}: position embeddings resized from {grid[0]}×{grid[1]} to {target[0]}×{target[1]} patches "
        f"({module.interpolate_mode}).",
        logger="current",
    )


def _arch_sizes(arch: str | Mapping[str, int]) -> dict[str, int]:
    if isinstance(arch, str):
        by_name = {name: sizes for names, sizes in ARCHS.items() for name in names}
        name = arch.lower().replace("_", "-")
        check_choice("arch", name, tuple(by_name))
        return dict(zip(ARCH_KEYS, by_name[name], strict=True))
    check_keys("arch", arch, ARCH_KEYS)
    missing = [key for key in ARCH_KEYS if key not in arch]
    if missing:
        raise ValueError(f"arch lacks {', '.join(missing)}: as a dict it needs {', '.join(ARCH_KEYS)}.")
    return dict(arch)


def _block_indices(out_indices: int | Sequence[int], num_layers: int) -> tuple[int, ...]:
    wanted = [out_indices] if isinstance(out_indices, int) else list(out_indices)
    blocks = [index + num_layers if index < 0 else index for index in wanted]
    if not blocks or len(set(blocks)) < len(blocks) or not all(0 <= index < num_layers for index in blocks):
        raise ValueError(
            f"out_indices={out_indices} must name one or more different blocks, from {-num_layers} to {num_layers - 1}."
        )
    return tuple(sorted(blocks))


def _each_layer_cfg(
    layer_cfgs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None, num_layers: int
) -> list[Mapping[str, Any]]:
    each = (
        [layer_cfgs or {}] * num_layers if layer_cfgs is None or isinstance(layer_cfgs, Mapping) else list(layer_cfgs)
    )
    if len(each) != num_layers:
        raise ValueError(
            f"layer_cfgs has {len(each)} entries for {num_layers} blocks: give one dict, or one for each block."
        )
    for own in each:
        check_keys("layer_cfgs", own, LAYER_KEYS)
    return each


def _pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else tuple(value)
    if min(height, width) < 1:
        raise ValueError(f"{name} must be positive, not {value}.")
    return height, width
