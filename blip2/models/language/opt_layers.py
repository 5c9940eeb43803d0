"""The parts of OPT: attention, decoder layer, decoder. State keys and numerics are those of the published weights.

Letters: B rows, T tokens, S keys, H heads, d width of a head, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip2.models.gradient_checkpointing import run_layer
from blip2.models.linear import Linear

from .architectures import OPTConfig
from .kv_cache import BeamCache, LayerCache


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
    """Attention of queries B×H×T×d over keys and values B×H×S×d.

    It goes where the bool `mask` (B×1×T×S) is True; without one it is causal, and T = S.
    """
    if query.requires_grad and query.dtype == torch.bfloat16 and query.device.type == "cpu":
        # Written out, the backward pass is about five times faster here than SDPA's (torch 2.14, AVX-512 with bf16).
        if mask is None:
            mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
        return F.dropout(weights, dropout) @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=mask is None)


class OPTAttention(nn.Module):
    """Multi-head self-attention with biases."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.k_proj = Linear(hidden_size, hidden_size)
        self.v_proj = Linear(hidden_size, hidden_size)
        self.q_proj = Linear(hidden_size, hidden_size)
        self.out_proj = Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, mask: Tensor | None, cache: LayerCache | None = None) -> Tensor:
        query, key, value = (self._heads(proj(x)) for proj in (self.q_proj, self.k_proj, self.v_proj))  # B×H×T×d
        if cache is not None:
            key, value = cache.append(key, value)  # B×H×S×d
        x = attend(query, key, value, mask, self.dropout if self.training else 0.0)
        return self.out_proj(x.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class OPTDecoderLayer(nn.Module):
    """Layer norm, attention, layer norm, ReLU feed-forward; the norms' names are the published ones."""

    def __init__(self, config: OPTConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.self_attn = OPTAttention(config.hidden_size, config.num_attention_heads, config.attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_size)
        self.fc1 = Linear(config.hidden_size, config.ffn_dim)
        self.fc2 = Linear(config.ffn_dim, config.hidden_size)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size)

    def forward(self, x: Tensor, mask: Tensor | None, cache: LayerCache | None = None) -> Tensor:
        x = x + self._drop(self.self_attn(self.self_attn_layer_norm(x), mask, cache))
        return x + self._drop(self.fc2(F.relu(self.fc1(self.final_layer_norm(x)))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class OPTDecoder(nn.Module):
    """Embeddings, layers and the final norm."""

    # The published position table starts with two rows that no position uses.
    position_offset = 2

    def __init__(self, config: OPTConfig, with_cp: bool = False) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.embed_positions = nn.Embedding(config.max_position_embeddings + self.position_offset, config.hidden_size)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size)
        self.layers = nn.ModuleList(OPTDecoderLayer(config) for _ in range(config.num_hidden_layers))

    def forward(
        self, inputs_embeds: Tensor, position_ids: Tensor, mask: Tensor | None, cache: BeamCache | None = None
    ) -> Tensor:
        """B×T×D embeddings at B×T positions (from 0; -1 for padding) to hidden states B×T×D."""
        x = inputs_embeds + self.embed_positions(position_ids + self.position_offset).to(inputs_embeds.dtype)
        for index, layer in enumerate(self.layers):
            # With a cache, as in generation, a second pass would write to it again.
            with_cp = self.with_cp and cache is None
            x = run_layer(layer, x, mask, None if cache is None else cache.layer(index), with_cp=with_cp)
        return self.final_layer_norm(x)


class OPTModel(nn.Module):
    """Holds the decoder, as the published keys (``model.decoder.…``) want it."""

    def __init__(self, config: OPTConfig, with_cp: bool = False) -> None:
        super().__init__()
        self.decoder = OPTDecoder(config, with_cp)


def positions_of(attention_mask: Tensor) -> Tensor:
    """Positions B×T from 0, counted over the tokens of a B×T mask only; -1 at padding, as in the published model."""
    mask = attention_mask.long()
    return mask.cumsum(1) * mask - 1


def attention_pattern(attention_mask: Tensor | None) -> Tensor | None:
    """Who may look at whom, B×1×T×T bool, or None for the plain causal pattern.

    Padding on the right needs no mask: nothing real comes after it. Padding elsewhere may look at itself, so that no
    row of the softmax is empty; nothing real looks at padding.
    """
    if attention_mask is None:
        return None
    if attention_mask.dim() == 3:
        return attention_mask[:, None]
    real = attention_mask.bool()
    if bool((real[:, 1:] <= real[:, :-1]).all()):
        return None
    length = real.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=real.device)
    return ((causal & real[:, None, :]) | itself)[:, None]
