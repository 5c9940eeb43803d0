"""Vision backbones: pictures B×3×H×W to a tuple of patch features."""

from .beit_vit import BEiTViT
from .clip_vit import CLIPViT
from .pos_embed import resize_pos_embed
from .timm_backbone import TIMMBackbone

__all__ = ["BEiTViT", "CLIPViT", "TIMMBackbone", "resize_pos_embed"]
