"""The Querying Transformer."""

from .config import QformerConfig
from .qformer import Qformer

__all__ = ["Qformer", "QformerConfig"]
