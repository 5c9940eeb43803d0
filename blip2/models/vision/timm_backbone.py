"""`TIMMBackbone`: any vision transformer of timm as an image encoder."""

from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.model.weight_init import initialize
from torch import Tensor

from blip2.models.checks import nearest
from blip2.models.freeze import freeze
from blip2.registry import MODELS


@MODELS.register_module()
class TIMMBackbone(BaseModule):
    """A timm model whose ``forward_features`` gives tokens B×N×D (ViT, DeiT, BEiT, EVA, SigLIP, DINOv2 …), without its
    head.

    timm is imported when a model is built, not before. Pictures must be normalised as the timm model wants it: set mean
    and std of the data preprocessor accordingly (`timm_model.pretrained_cfg` names them, on the scale of 0 to 1).

    Args:
        model_name: timm's name, with or without a tag of weights ('vit_base_patch16_224.augreg_in21k').
        pretrained: download timm's weights (from the Hugging Face hub, through timm).
        features_only: kept for mmpretrain's signature; only False gives tokens, True is refused.
        checkpoint_path: file of weights in timm's own form to load.
        in_channels: channels of a picture.
        img_size: picture size to build for, when it is not the model's own; position embeddings are resized by timm.
        dynamic_img_size: take pictures of any size as they come (ViT models only).
        drop_path_rate: stochastic depth.
        with_cp: gradient checkpointing, as timm does it.
        frozen: freeze all of it (no gradients, eval mode whatever `train()` says).
        init_cfg: mmengine's initialisation config; None leaves timm's own initialisation and weights as they are.
    """

    def __init__(
        self,
        model_name: str,
        features_only: bool = False,
        pretrained: bool = False,
        checkpoint_path: str = "",
        in_channels: int = 3,
        img_size: int | tuple[int, int] | None = None,
        dynamic_img_size: bool = False,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        frozen: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if features_only:
            raise ValueError("features_only=True gives a pyramid of feature maps; BLIP-2 needs tokens: leave it False.")
        options = {"img_size": img_size, "dynamic_img_size": dynamic_img_size, "drop_path_rate": drop_path_rate}
        self.timm_model = _create(
            model_name,
            pretrained=pretrained,
            checkpoint_path=checkpoint_path,
            in_chans=in_channels,
            # An option left at its default is not passed on: not every model knows it.
            **{name: value for name, value in options.items() if value},
        )
        self.timm_model.reset_classifier(0, "")
        if with_cp:
            self.timm_model.set_grad_checkpointing(True)
        self.model_name = model_name
        self.frozen = frozen
        self.embed_dims: int = self.timm_model.num_features
        self._check_tokens(in_channels, img_size)
        if frozen:
            freeze(self)

    def init_weights(self) -> None:
        # mmengine would call timm's own `init_weights` here and wipe out the weights loaded from a checkpoint.
        if self.init_cfg:
            initialize(self, self.init_cfg)

    def train(self, mode: bool = True) -> "TIMMBackbone":
        super().train(mode)
        if self.frozen:
            freeze(self.timm_model)
        return self

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Pictures B×C×H×W to one tensor of tokens B×N×D, the model's class and register tokens first."""
        tokens = self.timm_model.forward_features(x)
        if not isinstance(tokens, Tensor) or tokens.dim() != 3:
            found = f"a tensor of shape {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else type(tokens).__name__
            raise ValueError(
                f"timm's {self.model_name!r} gives {found} instead of tokens B×N×D: choose a plain vision "
                "transformer, such as 'vit_base_patch16_224'."
            )
        return (tokens,)

    def _check_tokens(self, in_channels: int, img_size: int | tuple[int, int] | None) -> None:
        """Run the model on the meta device (shapes only), so that one without tokens is refused when it is built."""
        size = self.timm_model.pretrained_cfg.get("input_size", (3, 224, 224))[1:] if img_size is None else img_size
        height, width = (size, size) if isinstance(size, int) else size
        state = {name: tensor.to("meta") for name, tensor in (*self.named_parameters(), *self.named_buffers())}
        with torch.no_grad():
            torch.func.functional_call(self, state, (torch.empty(1, in_channels, height, width, device="meta"),))


def _create(model_name: str, **options: Any) -> Any:
    import timm

    if ":" not in model_name and not timm.is_model(model_name):
        names = timm.list_models()
        raise ValueError(
            f"timm {timm.__version__} has no model {model_name!r}{nearest(model_name, names)}. List what it has with "
            "timm.list_models('*vit*')."
        )
    return timm.create_model(model_name, **options)
