"""Text generation over any language model that offers `LanguageModel`: beam search, greedy search and sampling."""

import torch
from torch import Tensor

from .beam_search import beam_search
from .decoding import DecodingState, GenerationConfig, GenerationOutput, LanguageModel
from .sampling import decode_stepwise

__all__ = ["DecodingState", "GenerationConfig", "GenerationOutput", "LanguageModel", "generate"]


@torch.no_grad()
def generate(
    lm: LanguageModel, inputs_embeds: Tensor, attention_mask: Tensor | None, config: GenerationConfig
) -> GenerationOutput:
    """Continue prompts B×P×D (mask B×P, non-zero at tokens; None: no padding) as `config` says.

    Each prompt is read once, whatever the number of beams; a picture whose texts are finished costs nothing more.
    """
    decode = beam_search if config.num_beams > 1 else decode_stepwise
    return decode(lm, inputs_embeds, attention_mask, config)
