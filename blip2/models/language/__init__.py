"""Language models, their tokenizers, and text generation."""

from .architectures import OPTConfig, T5Config, opt_config, t5_config
from .generation import GenerationConfig, GenerationOutput, generate
from .hf_causal_lm import HFCausalLM
from .opt import OPTForCausalLM
from .t5 import T5ForConditionalGeneration
from .tokenizers import AutoTokenizer, Blip2Tokenizer, pad_sequences

__all__ = [
    "AutoTokenizer",
    "Blip2Tokenizer",
    "GenerationConfig",
    "GenerationOutput",
    "HFCausalLM",
    "OPTConfig",
    "OPTForCausalLM",
    "T5Config",
    "T5ForConditionalGeneration",
    "generate",
    "opt_config",
    "pad_sequences",
    "t5_config",
]
