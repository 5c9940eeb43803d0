"""`Qformer`: BLIP-2's Querying Transformer (arXiv 2301.12597, section 3.1)."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn

from blip2.registry import MODELS

from .bert_weights import load_bert
from .config import QformerConfig, qformer_config
from .layers import Bert, Embeddings, Encoder, KeysValues, LMHead


@MODELS.register_module()
class Qformer(BaseModule):
    """A BERT whose queries look at a picture through cross-attention. The queries themselves belong to the model that
    owns it.

    Args:
        model_style: 'bert-base-uncased', a folder with a ``config.json``, or a dict of sizes; see `qformer_config`.
        vision_model_width: width of the picture's features.
        add_cross_attention: False for a Q-Former that sees no picture.
        cross_attention_freq: every so many layers, from the first on, have cross-attention.
        num_query_token: how many queries the owner should make.
        with_text: build the text branch (word and position embeddings, a feed-forward network for text in each layer).
        with_lm_head: build the head that predicts words (needs `with_text`; its matrix is the word embeddings').
        with_cp: gradient checkpointing: layers compute their activations again on the way back instead of keeping them.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, vocab_size, max_position_embeddings,
        layer_norm_eps, hidden_dropout_prob, attention_probs_dropout_prob, initializer_range: each replaces
            `model_style`'s value. The last is the width of the normal distribution that weights start from, BERT's
            0.02; a narrow Q-Former learns faster from a wider one.
        init_cfg: mmengine's initialisation config.
    """

    def __init__(
        self,
        model_style: str | Path | Mapping[str, Any] = "bert-base-uncased",
        vision_model_width: int = 1408,
        add_cross_attention: bool = True,
        cross_attention_freq: int = 2,
        num_query_token: int = 32,
        with_text: bool = False,
        with_lm_head: bool = False,
        with_cp: bool = False,
        hidden_size: int | None = None,
        num_hidden_layers: int | None = None,
        num_attention_heads: int | None = None,
        intermediate_size: int | None = None,
        vocab_size: int | None = None,
        max_position_embeddings: int | None = None,
        layer_norm_eps: float | None = None,
        hidden_dropout_prob: float | None = None,
        attention_probs_dropout_prob: float | None = None,
        initializer_range: float | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if cross_attention_freq < 1 or num_query_token < 1:
            raise ValueError(
                f"cross_attention_freq={cross_attention_freq} and num_query_token={num_query_token} must be 1 or more."
            )
        if with_lm_head and not with_text:
            raise ValueError("with_lm_head=True needs with_text=True: the head shares the word embeddings' matrix.")
        config = qformer_config(
            model_style,
            hidden_size=hidden_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads,
            intermediate_size=intermediate_size,
            vocab_size=vocab_size,
            max_position_embeddings=max_position_embeddings,
            layer_norm_eps=layer_norm_eps,
            hidden_dropout_prob=hidden_dropout_prob,
            attention_probs_dropout_prob=attention_probs_dropout_prob,
            initializer_range=initializer_range,
        )
        self.config = config
        self.hidden_size = config.hidden_size
        self.vision_model_width = vision_model_width
        self.add_cross_attention = add_cross_attention
        self.num_query_token = num_query_token
        self.with_text = with_text
        self.with_lm_head = with_lm_head

        self.bert = Bert(
            Embeddings(config, with_text),
            Encoder(
                config,
                cross_attention_width=vision_model_width if add_cross_attention else None,
                cross_attention_freq=cross_attention_freq,
                with_text=with_text,
                with_cp=with_cp,
            ),
        )
        if with_lm_head:
            self.cls = LMHead(config)
            self.tie_weights()
            self.register_load_state_dict_pre_hook(_complete_tied)
            self.register_load_state_dict_post_hook(_tie_again)
        _initialize(self, config)

    def tie_weights(self) -> None:
        """Make the LM head's matrix the word embeddings' again; needed after parameters were replaced one by one."""
        predictions = self.cls.predictions
        predictions.decoder.weight = self.bert.embeddings.word_embeddings.weight
        predictions.bias = predictions.decoder.bias

    def start_lm_head(self) -> None:
        """A new LM head in place of the one there is, which may be on the meta device."""
        words = self.bert.embeddings.word_embeddings.weight
        trains = self.cls.predictions.transform.dense.weight.requires_grad
        self.cls = LMHead(self.config)
        _initialize(self.cls, self.config)
        self.cls.to(words).requires_grad_(trains)
        self.tie_weights()

    def load_pretrained(self, folder: str | Path) -> None:
        """Start from the BERT in a local Hugging Face folder; see `load_bert`."""
        load_bert(self, folder)

    def project_encoder(self, encoder_hidden_states: Tensor) -> tuple[KeysValues | None, ...]:
        """Each layer's cross-attention keys and values of a picture's features B×N×Dv, to be used more than once.

        One entry a layer, None for a layer without cross-attention.
        """
        encoder_hidden_states = self._to_own_dtype(encoder_hidden_states)
        return self.bert.encoder.keys_values(encoder_hidden_states)

    def forward(
        self,
        query_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        encoder_keys_values: Sequence[KeysValues | None] | None = None,
        past_keys_values: Sequence[KeysValues] | None = None,
        kept_keys_values: list[KeysValues] | None = None,
        num_outputs: int | None = None,
    ) -> Tensor:
        """The last hidden state B×(Q+T)×D: of the queries, of a text, or of both (queries first).

        Args:
            query_embeds: B×Q×D, or None for text alone.
            encoder_hidden_states: the picture's features B×N×Dv, which queries attend to. There may be fewer pictures
                than rows: with R rows of B pictures, each picture is that of R/B consecutive rows.
            attention_mask: 1 or true where self-attention may look: B×(Q+T) for padding, or B×(Q+T)×(Q+T) with a row
                for each token that looks. None: everywhere.
            input_ids: token ids B×T of a text.
            encoder_attention_mask: which of the picture's features may be seen, B×N.
            encoder_keys_values: in place of `encoder_hidden_states`, what `project_encoder` made of them.
            past_keys_values: each layer's self-attention keys and values of P tokens that come before these, as an
                earlier call kept them; `attention_mask` then covers P + Q + T tokens to be looked at.
            kept_keys_values: an empty list, to which each layer's self-attention keys and values of these tokens are
                added.
            num_outputs: return the hidden states of so many tokens, the first ones, and spare the last layer the
                others.
        """
        num_queries = 0 if query_embeds is None else query_embeds.shape[1]
        self._check_inputs(query_embeds, encoder_hidden_states, input_ids, encoder_keys_values)
        x = self.bert.embeddings(query_embeds, input_ids)
        past = [None] * len(self.bert.encoder.layer) if past_keys_values is None else past_keys_values
        num_past = 0 if past_keys_values is None else past_keys_values[0][0].shape[2]
        if attention_mask is not None and attention_mask.shape[-1] != num_past + x.shape[1]:
            raise ValueError(
                f"attention_mask of shape {tuple(attention_mask.shape)} does not cover {num_queries} queries and "
                f"{x.shape[1] - num_queries} tokens of text"
                + (f" after {num_past} earlier tokens." if num_past else ".")
            )
        if encoder_keys_values is None:
            encoder_keys_values = [None] * len(self.bert.encoder.layer)
            if encoder_hidden_states is not None and num_queries:
                encoder_keys_values = self.project_encoder(encoder_hidden_states)
        return self.bert.encoder(
            x,
            num_queries,
            _additive_mask(attention_mask, x.dtype),
            encoder_keys_values,
            _additive_mask(encoder_attention_mask, x.dtype),
            past,
            kept_keys_values,
            num_outputs,
        )

    def lm_logits(self, hidden_state: Tensor) -> Tensor:
        """Logits over the vocabulary, B×T×V, for hidden states B×T×D."""
        if not self.with_lm_head:
            raise ValueError("This Q-Former has no LM head: build it with with_text=True and with_lm_head=True.")
        return self.cls(hidden_state)

    def _check_inputs(
        self,
        query_embeds: Tensor | None,
        encoder_hidden_states: Tensor | None,
        input_ids: Tensor | None,
        encoder_keys_values: Sequence[KeysValues | None] | None,
    ) -> None:
        if query_embeds is None and input_ids is None:
            raise ValueError("Give query_embeds, input_ids or both.")
        if input_ids is not None:
            if not self.with_text:
                raise ValueError("This Q-Former has no text branch: build it with with_text=True to pass input_ids.")
            if input_ids.shape[1] > self.config.max_position_embeddings:
                raise ValueError(
                    f"The text has {input_ids.shape[1]} tokens, the Q-Former takes "
                    f"{self.config.max_position_embeddings}: truncate it."
                )
        pictures = encoder_hidden_states if encoder_keys_values is None else encoder_keys_values
        if self.add_cross_attention and query_embeds is not None and pictures is None:
            raise ValueError("Queries need a picture: give encoder_hidden_states (or encoder_keys_values).")
        if not self.add_cross_attention and pictures is not None:
            raise ValueError(
                "This Q-Former has no cross-attention (add_cross_attention=False) but was given a picture."
            )
        if query_embeds is not None and pictures is not None:
            layers = [layer for layer in encoder_keys_values or () if layer is not None]
            count = len(layers[0][0]) if layers else len(pictures)
            if not count or len(query_embeds) % count:
                raise ValueError(f"{len(query_embeds)} rows of queries cannot be shared out among {count} pictures.")

    def _to_own_dtype(self, x: Tensor) -> Tensor:
        # The vision backbone may run at a lower precision than the Q-Former. Autocast sees to it by itself.
        cast_later = not x.is_meta and torch.is_autocast_enabled(x.device.type)  # on meta torch cannot tell
        return x if cast_later else x.to(self.bert.embeddings.LayerNorm.weight.dtype)


def _additive_mask(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """B×S or B×S×S, true where attention may go, to B×1×(1 or S)×S with 0 there and a large negative number elsewhere.

    The number fits fp16, and is finite so that a row that may see nothing (padding) stays a number too.
    """
    if mask is None:
        return None
    if mask.dim() not in (2, 3):
        raise ValueError(f"An attention mask must be B×S or B×S×S, not of shape {tuple(mask.shape)}.")
    mask = mask[:, None, None] if mask.dim() == 2 else mask[:, None]
    allowed = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return allowed.masked_fill_(mask == 0, torch.finfo(torch.float16).min)


def _initialize(module: nn.Module, config: QformerConfig) -> None:
    """BERT's start: normal weights, no biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=config.initializer_range)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.Embedding) and part.padding_idx is not None:
            with torch.no_grad():
                part.weight[part.padding_idx].zero_()


_TIED = (
    ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    ("cls.predictions.bias", "cls.predictions.decoder.bias"),
)


def _complete_tied(module: Qformer, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Load hook: a file may hold one tensor under one of its two names; if two values differ, the first name wins."""
    for first, second in ((prefix + first, prefix + second) for first, second in _TIED):
        if first in state_dict and second in state_dict:
            one, other = state_dict[first], state_dict[second]
            if one.shape == other.shape and not one.is_meta and not other.is_meta and not torch.equal(one, other):
                state_dict[second] = one
                message = f"{first} and {second} differ, but are one tensor here: the first is used."
                print_log(message, "current", logging.WARNING)
        elif first in state_dict:
            state_dict[second] = state_dict[first]
        elif second in state_dict:
            state_dict[first] = state_dict[second]


def _tie_again(module: Qformer, _: Any) -> None:
    # `load_state_dict(assign=True)` replaces each name's parameter by one of its own.
    module.tie_weights()
