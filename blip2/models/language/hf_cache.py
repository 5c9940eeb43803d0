"""What transformers calls the argument for keys and values."""

import inspect

from torch import nn


def cache_argument(model: nn.Module) -> str:
    """``cache`` from transformers 5.24 on, ``past_key_values`` before, as `model`'s forward has it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
