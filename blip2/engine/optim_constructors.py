"""Which learning rate and weight decay each parameter gets."""

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from blip2.engine.errors import OptionError
from blip2.registry import OPTIM_WRAPPER_CONSTRUCTORS
from blip2.utils.suggest import did_you_mean

_OPTIONS = ("layer_decay_rate", "flat_decay_mult", "norm_decay_mult", "bias_decay_mult", "custom_keys")
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LearningRateDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Lets the learning rate fall from block to block towards the pictures, under mmpretrain's name and options.

    In the image encoder, and in every other part with a method ``get_layer_depth``, a parameter at depth i of n (0:
    embeddings, n-1: behind the last block) has the learning rate lr · r^(n-1-i), as in BEiT (arXiv 2106.08254) and
    LAVIS. All others have lr itself. Frozen parameters are left out.

    In a config::

        optim_wrapper = dict(
            constructor='LearningRateDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=0.95, flat_decay_mult=0.0))

    Args:
        optim_wrapper_cfg: as for mmengine's constructor; its optimizer must give ``lr``.
        paramwise_cfg: any of

            - ``layer_decay_rate``: r above, 1 for no decay.
            - ``flat_decay_mult``: factor on the weight decay of parameters of one dimension (biases, norms, scales).
            - ``norm_decay_mult``, ``bias_decay_mult``: the same for norms, and for what is called ``bias``; they win.
            - ``custom_keys``: ``{part of a name: dict(decay_mult=…)}``, which wins over all of them; where several fit,
              the longest.

    Raises `OptionError` for other options, and for a layer decay in a model no part of which knows its depths.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        unknown = [option for option in self.paramwise_cfg if option not in _OPTIONS]
        if unknown:
            raise OptionError(
                f"paramwise_cfg: unknown option {unknown[0]!r} for {type(self).__name__}."
                f"{did_you_mean(unknown[0], _OPTIONS)} It takes {', '.join(_OPTIONS)}"
            )
        for key, options in self.paramwise_cfg.get("custom_keys", {}).items():
            if set(options) - {"decay_mult"}:
                raise OptionError(f"paramwise_cfg.custom_keys[{key!r}] takes decay_mult alone, not {dict(options)}")
        if self.base_lr is None:
            raise OptionError("optim_wrapper.optimizer.lr must be given for layer-wise decay")

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = "", is_dcn_module: Any = None) -> None:
        """Appends a group to `params` for each pair of learning rate and weight decay that occurs in `module`."""
        owners = {name: part for name, part in module.named_modules() if hasattr(part, "get_layer_depth")}
        rate = self.paramwise_cfg.get("layer_decay_rate", 1.0)
        if rate != 1 and not owners:
            raise OptionError(
                f"paramwise_cfg.layer_decay_rate={rate}: no part of {type(module).__name__} has a method "
                "get_layer_depth (BEiTViT has one); set layer_decay_rate=1.0"
            )
        groups: dict[tuple[float, float | None], dict[str, Any]] = {}
        seen: set[nn.Parameter] = set()  # tied parameters have several names, of which the first counts
        for part_name, part in module.named_modules():
            for name, parameter in part.named_parameters(part_name, recurse=False):
                if not parameter.requires_grad or parameter in seen:
                    continue
                seen.add(parameter)
                scale, decay = rate ** _distance(name, owners), self._weight_decay(name, parameter, part)
                if (scale, decay) not in groups:
                    group: dict[str, Any] = {"params": [], "lr": self.base_lr * scale, "lr_scale": scale}
                    groups[scale, decay] = group if decay is None else {**group, "weight_decay": decay}
                groups[scale, decay]["params"].append(parameter)
        params += groups.values()

    def _weight_decay(self, name: str, parameter: nn.Parameter, part: nn.Module) -> float | None:
        if self.base_wd is None:
            return None
        custom = self.paramwise_cfg.get("custom_keys", {})
        keys = sorted((key for key in custom if key in name), key=lambda key: (-len(key), key))
        norm, bias, flat = (self.paramwise_cfg.get(f"{kind}_decay_mult") for kind in ("norm", "bias", "flat"))
        if keys:
            factor = custom[keys[0]].get("decay_mult", 1.0)
        elif norm is not None and isinstance(part, _NORMS):
            factor = norm
        elif bias is not None and name.rpartition(".")[2] == "bias":
            factor = bias
        elif flat is not None and parameter.ndim == 1:
            factor = flat
        else:
            factor = 1.0
        return self.base_wd * factor


def _distance(name: str, owners: dict[str, Any]) -> int:
    """How many depths lie between a parameter and the end of the part that knows its depths; 0 outside of them."""
    for owner, part in owners.items():
        prefix = f"{owner}." if owner else ""
        if name.startswith(prefix):
            depth, count = part.get_layer_depth(name, prefix)
            return count - 1 - depth
    return 0
