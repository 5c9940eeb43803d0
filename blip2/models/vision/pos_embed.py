"""Absolute position embeddings for another picture size, and the relative position bias of BEiT."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INTERPOLATE_MODES = ("bicubic", "bilinear", "nearest")


def resize_pos_embed(
    pos_embed: Tensor,
    src_shape: tuple[int, int],
    dst_shape: tuple[int, int],
    mode: str = "bicubic",
    num_extra_tokens: int = 1,
    align_corners: bool = False,
) -> Tensor:
    """Interpolate position embeddings 1×(E + h·w)×D from the patch grid `src_shape` (h, w) to `dst_shape`.

    The first E = `num_extra_tokens` rows (the class token's) stay as they are. With `align_corners` the corner patches
    of both grids have the same embeddings ('nearest' knows no such choice). The arithmetic is float32, the result has
    the dtype of `pos_embed`; the very tensor comes back when the grids are equal.
    """
    if src_shape == dst_shape:
        return pos_embed
    height, width = src_shape
    if pos_embed.dim() != 3 or pos_embed.shape[1] != num_extra_tokens + height * width:
        raise ValueError(
            f"Position embeddings of a {height}×{width} grid with {num_extra_tokens} extra tokens must have the shape "
            f"1×{num_extra_tokens + height * width}×D, not {tuple(pos_embed.shape)}."
        )
    extra, grid = pos_embed[:, :num_extra_tokens], pos_embed[:, num_extra_tokens:]
    grid = grid.unflatten(1, src_shape).permute(0, 3, 1, 2)  # 1×D×h×w
    corners = None if mode == "nearest" else align_corners
    grid = F.interpolate(grid.float(), size=dst_shape, mode=mode, align_corners=corners)
    return torch.cat((extra, grid.flatten(2).transpose(1, 2).to(pos_embed.dtype)), dim=1)


def square_grid(num_patches: int) -> tuple[int, int] | None:
    """The side lengths of a square grid of so many patches; None if there is none."""
    side = round(num_patches**0.5)
    return (side, side) if side > 0 and side * side == num_patches else None


def relative_position_index(grid: tuple[int, int], with_cls_token: bool) -> Tensor:
    """For each pair (query, key) of tokens the row of the bias table that belongs to it: N×N, int64.

    Two patches share a row when they lie at the same offset from one another. With a class token the last three rows
    are for class → patch, patch → class and class → class (BEiT, arXiv 2106.08254, and its published weights).
    """
    height, width = grid
    rows = torch.arange(height).repeat_interleave(width)
    columns = torch.arange(width).repeat(height)
    down = rows[:, None] - rows[None, :] + height - 1
    right = columns[:, None] - columns[None, :] + width - 1
    offsets = down * (2 * width - 1) + right
    if not with_cls_token:
        return offsets
    num_offsets = (2 * height - 1) * (2 * width - 1)
    index = F.pad(offsets, (1, 0, 1, 0))
    index[0, :] = num_offsets
    index[:, 0] = num_offsets + 1
    index[0, 0] = num_offsets + 2
    return index


def add_relative_bias(module: nn.Module, grid: tuple[int, int], num_heads: int, with_cls_token: bool) -> None:
    """Give `module` the parameter and the buffer of a relative position bias, under upstream's names."""
    num_rows = (2 * grid[0] - 1) * (2 * grid[1] - 1) + (3 if with_cls_token else 0)
    module.relative_position_bias_table = nn.Parameter(torch.zeros(num_rows, num_heads))
    module.register_buffer("relative_position_index", relative_position_index(grid, with_cls_token))


class RelativePositionBias(nn.Module):
    """A learned number for each attention head and each offset between two tokens of the grid, shared by all blocks."""

    relative_position_index: Tensor
    relative_position_bias_table: nn.Parameter

    def __init__(self, grid: tuple[int, int], num_heads: int, with_cls_token: bool = True) -> None:
        super().__init__()
        add_relative_bias(self, grid, num_heads, with_cls_token)

    def forward(self) -> Tensor:
        """H×N×N, to be added to the attention scores."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
