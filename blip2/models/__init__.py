"""The models, and everything they are built from. Importing this package registers them."""

from .blip2_base import Blip2Base
from .blip2_caption import Blip2Caption
from .blip2_retrieval import Blip2Retrieval
from .blip2_vqa import Blip2VQA
from .data_preprocessor import MultiModalDataPreprocessor
from .freeze import freeze
from .heads import ITMHead, LinearClsHead
from .language import AutoTokenizer, Blip2Tokenizer, HFCausalLM, OPTForCausalLM, T5ForConditionalGeneration
from .pretrain import LanguageModelPretrainer, VisionCaptioner
from .qformer import Qformer
from .vision import BEiTViT, CLIPViT, TIMMBackbone

__all__ = [
    "AutoTokenizer",
    "BEiTViT",
    "Blip2Base",
    "Blip2Caption",
    "Blip2Retrieval",
    "Blip2Tokenizer",
    "Blip2VQA",
    "CLIPViT",
    "HFCausalLM",
    "ITMHead",
    "LanguageModelPretrainer",
    "LinearClsHead",
    "MultiModalDataPreprocessor",
    "OPTForCausalLM",
    "Qformer",
    "T5ForConditionalGeneration",
    "TIMMBackbone",
    "VisionCaptioner",
    "freeze",
]
