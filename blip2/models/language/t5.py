"""`T5ForConditionalGeneration`: Flan-T5 as BLIP-2's language model. Its encoder reads, its decoder writes.

Letters: B rows (pictures), S tokens read, T tokens written, D width, K beams, V vocabulary.
"""

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip2.registry import MODELS

from .architectures import t5_config
from .hf_cache import cache_argument
from .weights import keep_tied, load_hf_weights

_TIED = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# Older files of T5 hold this bias, which no version of the model reads.
_UNUSED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)
# Copies of what was read that `look_ahead` makes at a time.
_COPIES = 32


@MODELS.register_module()
class T5ForConditionalGeneration(nn.Module):
    """T5 v1.1 or Flan-T5 (arXiv 2210.11416), with transformers' layers and state-dict keys.

    The queries and the prompt go to the encoder; the decoder writes. As a text backbone it stands where
    `OPTForCausalLM` does. Building reads no weights and touches no network: sizes come from the published name
    (``google/flan-t5-xl``), from the ``config.json`` of a local folder, or from the other arguments, which win. Weights
    are random until `load_pretrained` or a checkpoint brings them.

    The published weights were trained in bfloat16; float16 is too narrow for what the larger ones compute.

    Args:
        name_or_path: published name, or folder with a ``config.json`` (a relative one may lie below the resources).
        vocab_size … layer_norm_epsilon: override the sizes of `name_or_path` (without it: of flan-t5-small).
        pad_token_id: fills prompts.
        decoder_start_token_id: the token that the decoder begins with.
        dense_act_fn: activation of the feed-forward layers, by transformers' name. Flan-T5 was made with 'gelu_new';
            LAVIS trained BLIP-2 with 'gelu', and so its weights want it.
    """

    is_encoder_decoder = True
    end_token = "</s>"

    def __init__(
        self,
        name_or_path: str | None = None,
        *,
        vocab_size: int | None = None,
        d_model: int | None = None,
        d_kv: int | None = None,
        d_ff: int | None = None,
        num_layers: int | None = None,
        num_decoder_layers: int | None = None,
        num_heads: int | None = None,
        relative_attention_num_buckets: int | None = None,
        relative_attention_max_distance: int | None = None,
        dropout_rate: float | None = None,
        layer_norm_epsilon: float | None = None,
        pad_token_id: int | None = None,
        decoder_start_token_id: int | None = None,
        dense_act_fn: str = "gelu",
    ) -> None:
        super().__init__()
        import transformers  # takes over a second

        self.config = t5_config(
            name_or_path,
            vocab_size=vocab_size,
            d_model=d_model,
            d_kv=d_kv,
            d_ff=d_ff,
            num_layers=num_layers,
            num_decoder_layers=num_decoder_layers,
            num_heads=num_heads,
            relative_attention_num_buckets=relative_attention_num_buckets,
            relative_attention_max_distance=relative_attention_max_distance,
            dropout_rate=dropout_rate,
            layer_norm_epsilon=layer_norm_epsilon,
            pad_token_id=pad_token_id,
            decoder_start_token_id=decoder_start_token_id,
        )
        self.name_or_path = name_or_path
        hf_config = transformers.T5Config(**asdict(self.config), feed_forward_proj="gated-gelu")
        hf_config.dense_act_fn = dense_act_fn
        whole = transformers.T5ForConditionalGeneration(hf_config)
        self.shared, self.encoder, self.decoder = whole.shared, whole.encoder, whole.decoder
        # transformers ties every T5's head to its embeddings until a checkpoint brings another; these have their own.
        self.lm_head = nn.Linear(self.config.d_model, self.config.vocab_size, bias=False)
        nn.init.normal_(self.lm_head.weight, std=self.config.d_model**-0.5)
        self.tie_weights()
        keep_tied(self, _TIED)

    @property
    def hidden_size(self) -> int:
        return self.config.d_model

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def max_positions(self) -> None:
        """No limit: positions are relative."""

    def get_input_embeddings(self) -> nn.Embedding:
        return self.shared

    def tie_weights(self) -> None:
        """Let encoder and decoder share their token embeddings; to be called after anything that replaces them."""
        self.encoder.embed_tokens.weight = self.decoder.embed_tokens.weight = self.shared.weight

    def load_pretrained(self, folder: str | Path) -> None:
        """Load the weights of a local Hugging Face folder (safetensors or ``.bin``, sharded or not), strictly.

        Raises FileNotFoundError where there are none, CheckpointError that names missing, unknown or misshapen keys.
        """
        load_hf_weights(self, folder, _TIED, _UNUSED)

    def read(self, inputs_embeds: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embeddings B×S×D (mask B×S, non-zero at tokens and zero at padding on either side) to what the decoder looks
        at, B×S×D.
        """
        return self.encoder(inputs_embeds=inputs_embeds, attention_mask=attention_mask).last_hidden_state

    def hidden_states(self, ids: Tensor, encoded: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Of texts B×T to be written, padded on the right: states B×T×D, of which `lm_head` makes each token's logits.

        `encoded` is what `read` made of inputs with that mask. State t has seen the tokens before t.
        """
        before = F.pad(ids[:, :-1], (1, 0), value=self.config.decoder_start_token_id)
        return self.run(before, encoded, attention_mask, None)

    def run(self, ids: Tensor, encoded: Tensor, attention_mask: Tensor | None, cache: Any) -> Tensor:
        """Decoder states B×T×D at tokens B×T; keys and values are added to transformers' `cache`, if there is one."""
        output = self.decoder(
            input_ids=ids,
            encoder_hidden_states=encoded,
            encoder_attention_mask=attention_mask,
            use_cache=cache is not None,
            **{cache_argument(self.decoder): cache},
        )
        return output.last_hidden_state

    def prefill(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None, num_beams: int, max_new_tokens: int
    ) -> tuple[Tensor, "T5DecodingState"]:
        """Read the prompts B×S×D once; see `decoding.LanguageModel`."""
        from transformers import DynamicCache, EncoderDecoderCache

        rows, length, _ = inputs_embeds.shape
        if attention_mask is None:
            attention_mask = torch.ones(rows, length, dtype=torch.long, device=inputs_embeds.device)
        encoded = self.read(inputs_embeds, attention_mask)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        start = attention_mask.new_full((rows, 1), self.config.decoder_start_token_id, dtype=torch.long)
        hidden = self.run(start, encoded, attention_mask, cache)
        return self.lm_head(hidden[:, -1]), T5DecodingState(self, cache, encoded, attention_mask, num_beams)

    def check_length(self, length: int) -> None:
        """Nothing to check: positions are relative."""


class T5DecodingState:
    """A T5 in the middle of writing; see `decoding.DecodingState`.

    Prompts are read once, and copied for the beams at the first step.
    """

    def __init__(
        self, lm: T5ForConditionalGeneration, cache: Any, encoded: Tensor, mask: Tensor, num_beams: int
    ) -> None:
        """`encoded` is B×S×D, `mask` B×S, non-zero at tokens."""
        self.lm = lm
        self.cache = cache
        self.encoded = encoded
        self.mask = mask
        self.num_beams = num_beams
        self.beams_apart = False  # whether each beam has rows of its own

    def step(self, tokens: Tensor) -> Tensor:
        """Tokens B×K to logits B×K×V of the tokens after them."""
        if not self.beams_apart:
            self.cache.batch_repeat_interleave(self.num_beams)
            self.encoded = self.encoded.repeat_interleave(self.num_beams, 0)
            self.mask = self.mask.repeat_interleave(self.num_beams, 0)
            self.beams_apart = True
        hidden = self.lm.run(tokens.flatten()[:, None], self.encoded, self.mask, self.cache)
        return self.lm.lm_head(hidden[:, -1]).unflatten(0, tokens.shape)

    def look_ahead(self, tokens: Tensor) -> Tensor:
        return torch.cat([self._look_ahead(part) for part in tokens.split(_COPIES)], 1)

    def _look_ahead(self, tokens: Tensor) -> Tensor:
        rows, count = len(self.mask), len(tokens)
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(count)
        encoded, mask = self.encoded.repeat_interleave(count, 0), self.mask.repeat_interleave(count, 0)
        return self.lm.run(tokens.repeat(rows, 1), encoded, mask, cache).unflatten(0, (rows, count))

    def reorder(self, parents: Tensor) -> None:
        if self.beams_apart:  # what was read is the same for all beams of a picture
            first = torch.arange(len(parents), device=parents.device)[:, None] * self.num_beams
            self.cache.self_attention_cache.reorder_cache((first + parents).flatten())

    def keep(self, rows: Tensor) -> None:
        if self.beams_apart:
            beams = torch.arange(self.num_beams, device=rows.device)
            rows = (rows[:, None] * self.num_beams + beams).flatten()
        self.encoded, self.mask = self.encoded[rows], self.mask[rows]
        self.cache.batch_select_indices(rows)
