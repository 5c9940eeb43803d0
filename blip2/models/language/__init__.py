"""Language models, their tokenizers, and text generation."""

from .architectures import OPTConfig, opt_config
from .generation import GenerationConfig, GenerationOutput, generate
from .hf_causal_lm import HFCausalLM
from .opt import OPTForCausalLM
from .tokenizers import AutoTokenizer, Blip2Tokenizer, pad_sequences

__all__ = [
    "AutoTokenizer",
    "Blip2Tokenizer",
    "GenerationConfig",
    "GenerationOutput",
    "HFCausalLM",
    "OPTConfig",
    "OPTForCausalLM",
    "generate",
    "opt_config",
    "pad_sequences",
]
