"""Heads: the projections on top of the Q-Former."""

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from blip2.registry import MODELS

_DEFAULT_INIT = {"type": "Normal", "layer": "Linear", "std": 0.01}


@MODELS.register_module()
class LinearClsHead(BaseModule):
    """One linear layer; BLIP-2 uses it as a projection (``vision_neck``, ``text_neck``).

    Args:
        num_classes: width of the output.
        in_channels: width of the features.
        init_cfg: mmengine's initialisation config, applied by ``init_weights()``.

    mmpretrain's head of this name also takes ``loss``, ``topk`` and ``cal_acc``. No BLIP-2 model classifies pictures,
    so these are unexpected arguments here.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = _DEFAULT_INIT,
    ) -> None:
        super().__init__(init_cfg)
        for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
            if value <= 0:
                raise ValueError(f"LinearClsHead: {name} must be a positive integer, not {value}.")
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, feats: Tensor | Sequence[Tensor]) -> Tensor:
        """Project ``… × in_channels`` to ``… × num_classes``; of a sequence of features (a backbone's), the last."""
        return self.fc(feats if isinstance(feats, Tensor) else feats[-1])
