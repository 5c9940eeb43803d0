"""The parts of the Q-Former, named as BERT's (their state-dict keys are those of the published checkpoints).

Letters: B pictures, R rows (one or more a picture), S tokens (queries, then text), N patches, D width, H heads.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip2.models.gradient_checkpointing import run_layer
from blip2.models.linear import Linear

from .config import QformerConfig

KeysValues = tuple[Tensor, Tensor]  # each B×H×N×(D/H)
_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


def dropout(rate: float) -> nn.Module:
    """Dropout, or nothing at all: `nn.Dropout(0)` still copies in training."""
    return nn.Dropout(rate) if rate else nn.Identity()


class LayerNorm(nn.LayerNorm):
    """Layer norm of a sum. Under fp16 the sum and the norm are float32: post-norm BERT leaves fp16's range there."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if x.dtype == torch.float16:
            total = x.float() if residual is None else x.float() + residual.float()
            weight, bias = self.weight.float(), self.bias.float()
            return F.layer_norm(total, self.normalized_shape, weight, bias, self.eps).to(x.dtype)
        return super().forward(x if residual is None else x + residual)


class Projections(nn.Module):
    """Queries from the Q-Former's own width, keys and values from the width that is attended to."""

    def __init__(self, width: int, source_width: int) -> None:
        super().__init__()
        self.query = Linear(width, width)
        self.key = Linear(source_width, width)
        self.value = Linear(source_width, width)


class Output(nn.Module):
    """Projection, dropout, residual sum, norm."""

    def __init__(self, in_width: int, config: QformerConfig) -> None:
        super().__init__()
        self.dense = Linear(in_width, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)), residual)


class Intermediate(nn.Module):
    def __init__(self, config: QformerConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.intermediate_size)
        self.activation = _ACTIVATIONS[config.hidden_act]()

    def forward(self, x: Tensor) -> Tensor:
        return self.dense.activated(x, self.activation)


class Attention(nn.Module):
    """Multi-head attention over the tokens themselves, or over the picture's features when `source_width` is given."""

    def __init__(self, config: QformerConfig, source_width: int | None = None) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.attention_dropout = config.attention_probs_dropout_prob
        self.self = Projections(config.hidden_size, source_width or config.hidden_size)
        self.output = Output(config.hidden_size, config)

    def keys_values(self, source: Tensor) -> KeysValues:
        return self._heads(self.self.key(source)), self._heads(self.self.value(source))

    def forward(self, x: Tensor, mask: Tensor | None, keys_values: KeysValues) -> Tensor:
        """R×S×D to R×S×D; `mask` is added to the scores, so it must broadcast to R×H×S×(keys).

        Keys and values may be those of fewer rows, B: each serves R/B consecutive rows of `x`, uncopied.
        """
        key, value = keys_values
        query = self._heads(self.self.query(x).reshape(len(key), -1, x.shape[2]))
        dropout_p = self.attention_dropout if self.training else 0.0
        # All of PyTorch's kernels take this softmax in float32.
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout_p)
        return self.output(context.transpose(1, 2).reshape(x.shape), x)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # B×H×S×(D/H)


class Layer(nn.Module):
    """Self-attention over queries and text together, cross-attention for queries only, a feed-forward net for each."""

    def __init__(self, config: QformerConfig, *, cross_attention_width: int | None, with_text: bool) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.has_cross_attention = cross_attention_width is not None
        if cross_attention_width is not None:
            self.crossattention = Attention(config, cross_attention_width)
        if with_text:
            self.intermediate = Intermediate(config)
            self.output = Output(config.intermediate_size, config)
        self.intermediate_query = Intermediate(config)
        self.output_query = Output(config.intermediate_size, config)

    def forward(
        self,
        x: Tensor,
        num_queries: int,
        mask: Tensor | None,
        keys_values: KeysValues | None,
        encoder_mask: Tensor | None,
        past: KeysValues | None = None,
        kept: list[KeysValues] | None = None,
        num_outputs: int | None = None,
    ) -> Tensor:
        """R×S×D to R×S×D, or to R×`num_outputs`×D: the first tokens only, which still look at all S."""
        own = self.attention.keys_values(x)
        if kept is not None:
            kept.append(own)
        if past is not None:
            own = torch.cat((past[0], own[0]), dim=2), torch.cat((past[1], own[1]), dim=2)
        if num_outputs is not None:
            x = x[:, :num_outputs]
            mask = mask if mask is None else mask[:, :, :num_outputs]
        x = self.attention(x, mask, own)
        num_queries = min(num_queries, x.shape[1])
        queries, text = x.split((num_queries, x.shape[1] - num_queries), dim=1)
        parts = []
        if queries.shape[1]:
            if keys_values is not None:
                queries = self.crossattention(queries, encoder_mask, keys_values)
            parts.append(self.output_query(self.intermediate_query(queries), queries))
        if text.shape[1]:
            parts.append(self.output(self.intermediate(text), text))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class Embeddings(nn.Module):
    """Queries and, with the text branch, words and their positions; normalised together."""

    position_ids: Tensor

    def __init__(self, config: QformerConfig, with_text: bool) -> None:
        super().__init__()
        if with_text:
            self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = dropout(config.hidden_dropout_prob)
        # Every published checkpoint has this buffer, with or without the text branch.
        self.register_buffer("position_ids", torch.arange(config.max_position_embeddings)[None])

    def forward(self, query_embeds: Tensor | None, input_ids: Tensor | None) -> Tensor:
        parts = []
        if query_embeds is not None:
            parts.append(query_embeds.to(self.LayerNorm.weight.dtype))
        if input_ids is not None:
            positions = self.position_ids[:, : input_ids.shape[1]]
            parts.append(self.word_embeddings(input_ids) + self.position_embeddings(positions))
        x = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return self.dropout(self.LayerNorm(x))


class LMTransform(nn.Module):
    def __init__(self, config: QformerConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.activation = _ACTIVATIONS[config.hidden_act]()
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(self.dense.activated(x, self.activation))


class LMPredictions(nn.Module):
    def __init__(self, config: QformerConfig) -> None:
        super().__init__()
        self.transform = LMTransform(config)
        self.decoder = Linear(config.hidden_size, config.vocab_size)
        self.bias = self.decoder.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))


class LMHead(nn.Module):
    """BERT's ``cls``: a transform, then one logit for each word of the vocabulary."""

    def __init__(self, config: QformerConfig) -> None:
        super().__init__()
        self.predictions = LMPredictions(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.predictions(x)


class Encoder(nn.Module):
    """All layers. Every `cross_attention_freq`-th from the first on has cross-attention; none if the width is None."""

    def __init__(
        self,
        config: QformerConfig,
        *,
        cross_attention_width: int | None,
        cross_attention_freq: int,
        with_text: bool,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        widths = [
            cross_attention_width if not i % cross_attention_freq else None for i in range(config.num_hidden_layers)
        ]
        self.layer = nn.ModuleList(Layer(config, cross_attention_width=width, with_text=with_text) for width in widths)

    def keys_values(self, source: Tensor) -> tuple[KeysValues | None, ...]:
        layers = cast(Iterable[Layer], self.layer)
        return tuple(
            layer.crossattention.keys_values(source) if layer.has_cross_attention else None for layer in layers
        )

    def forward(
        self,
        x: Tensor,
        num_queries: int,
        mask: Tensor | None,
        keys_values: Sequence[KeysValues | None],
        encoder_mask: Tensor | None,
        past: Sequence[KeysValues | None],
        kept: list[KeysValues] | None,
        num_outputs: int | None = None,
    ) -> Tensor:
        last = len(self.layer) - 1
        for index, (layer, picture, before) in enumerate(zip(self.layer, keys_values, past, strict=True)):
            own: list[KeysValues] | None = None if kept is None else []
            wanted = num_outputs if index == last else None
            inputs = (num_queries, mask, picture, encoder_mask, before, own, wanted)
            x = run_layer(layer, x, *inputs, with_cp=self.with_cp)
            if kept is not None and own is not None:
                kept += own  # here, since a second pass adds to `own` again
        return x


class Bert(nn.Module):
    """Embeddings and encoder, under the names that checkpoints have them."""

    def __init__(self, embeddings: Embeddings, encoder: Encoder) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.encoder = encoder
