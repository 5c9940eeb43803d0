"""Heads: the projections on top of the Q-Former."""

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from blip2.models.linear import Linear
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
        self.fc = Linear(in_channels, num_classes)

    def forward(self, feats: Tensor | Sequence[Tensor]) -> Tensor:
        """Project ``… × in_channels`` to ``… × num_classes``; of a sequence of features (a backbone's), the last."""
        return self.fc(feats if isinstance(feats, Tensor) else feats[-1])


@MODELS.register_module()
class ITMHead(BaseModule):
    """Tells whether a picture and a text match.

    Args:
        hidden_size: width of the features.
        with_pooler: look at the first token only, through a linear layer and tanh; BLIP-2 does without.
        cal_acc: have the training log ``itm_accuracy``, the share of pairs told rightly in percent.
        init_cfg: mmengine's initialisation config.

    mmpretrain's head of this name also takes ``loss``. The loss is cross-entropy here; `Blip2Retrieval` weights it.
    """

    def __init__(
        self,
        hidden_size: int,
        with_pooler: bool = True,
        cal_acc: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if hidden_size <= 0:
            raise ValueError(f"ITMHead: hidden_size must be a positive integer, not {hidden_size}.")
        self.hidden_size = hidden_size
        self.with_pooler = with_pooler
        self.cal_acc = cal_acc
        if with_pooler:
            self.pooler = Pooler(hidden_size)
        self.fc = Linear(hidden_size, 2)

    def forward(self, feats: Tensor | Sequence[Tensor]) -> Tensor:
        """Features R×S×D (of a sequence of them, the last) to logits R×S×2, or R×2 with the pooler."""
        feats = feats if isinstance(feats, Tensor) else feats[-1]
        return self.fc(self.pooler(feats) if self.with_pooler else feats)


class Pooler(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x[:, 0]).tanh()
