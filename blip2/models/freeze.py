"""The one way in which a part of a model is frozen."""

from torch import nn


def freeze(*parts: nn.Module | nn.Parameter) -> None:
    """Stop `parts` from training: no gradients from now on, none left over, and `eval()` (no dropout, no drop path).

    `nn.Module.train()` would wake them up again: the owner's `train()` calls `freeze` once more after
    ``super().train()``, as `BEiTViT` and `Blip2Base` do.
    """
    for part in parts:
        if isinstance(part, nn.Module):
            part.eval()
        parameters = part.parameters() if isinstance(part, nn.Module) else (part,)
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
