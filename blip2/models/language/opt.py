"""OPT, a decoder-only language model (Zhang et al. 2022, arXiv 2205.01068).

State keys and numerics are those of the published weights. Letters: B rows, T tokens, H heads, D width, K beams, V
vocabulary.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blip2.registry import MODELS

from .architectures import opt_config
from .kv_cache import BeamCache, LayerCache
from .weights import read_shards


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
    """Attention of queries B×H×T×d over keys and values B×H×S×d; causal if `mask` is None, else where `mask` (bool) is
    True.
    """
    if query.requires_grad and query.dtype == torch.bfloat16 and query.device.type == "cpu":
        # Written out, the backward pass is about five times faster here than SDPA's (torch 2.14, AMX).
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
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

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

    def __init__(
        self, hidden_size: int, num_heads: int, ffn_dim: int, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attn = OPTAttention(hidden_size, num_heads, attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(hidden_size)
        self.fc1 = nn.Linear(hidden_size, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, hidden_size)
        self.final_layer_norm = nn.LayerNorm(hidden_size)

    def forward(self, x: Tensor, mask: Tensor | None, cache: LayerCache | None = None) -> Tensor:
        x = x + self._drop(self.self_attn(self.self_attn_layer_norm(x), mask, cache))
        return x + self._drop(self.fc2(F.relu(self.fc1(self.final_layer_norm(x)))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class OPTDecoder(nn.Module):
    """Embeddings, layers and the final norm."""

    # The published position table starts with two rows that no position uses.
    position_offset = 2

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        num_hidden_layers: int,
        num_attention_heads: int,
        ffn_dim: int,
        max_position_embeddings: int,
        dropout: float,
        attention_dropout: float,
        pad_token_id: int,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.max_position_embeddings = max_position_embeddings
        self.embed_tokens = nn.Embedding(vocab_size, hidden_size, padding_idx=pad_token_id)
        self.embed_positions = nn.Embedding(max_position_embeddings + self.position_offset, hidden_size)
        self.final_layer_norm = nn.LayerNorm(hidden_size)
        self.layers = nn.ModuleList(
            OPTDecoderLayer(hidden_size, num_attention_heads, ffn_dim, dropout, attention_dropout)
            for _ in range(num_hidden_layers)
        )

    def forward(
        self, inputs_embeds: Tensor, position_ids: Tensor, mask: Tensor | None, cache: BeamCache | None = None
    ) -> Tensor:
        """B×T×D embeddings at B×T positions (from 0; -1 for padding) to hidden states B×T×D."""
        x = inputs_embeds + self.embed_positions(position_ids + self.position_offset).to(inputs_embeds.dtype)
        for index, layer in enumerate(self.layers):
            x = layer(x, mask, cache.layer(index) if cache is not None else None)
        return self.final_layer_norm(x)


class OPTModel(nn.Module):
    """Holds the decoder, as the published keys (``model.decoder.…``) want it."""

    def __init__(self, decoder: OPTDecoder) -> None:
        super().__init__()
        self.decoder = decoder


@MODELS.register_module()
class OPTForCausalLM(nn.Module):
    """OPT with its language-model head, which is tied to the token embeddings.

    Building reads no weights and touches no network: sizes come from the published name (``facebook/opt-2.7b``), from
    the ``config.json`` of a local folder, or from the other arguments, which win. Weights are random until
    `load_pretrained` or a checkpoint brings them.

    Args:
        name_or_path: published name, or folder with a ``config.json`` (a relative one may lie below the resources).
        vocab_size … attention_dropout: override the sizes of `name_or_path` (without it: of opt-125m).
        pad_token_id: row of the token embeddings that is zero at the start and gets no gradient.
        init_std: standard deviation of the random weights.
    """

    def __init__(
        self,
        name_or_path: str | None = None,
        *,
        vocab_size: int | None = None,
        hidden_size: int | None = None,
        num_hidden_layers: int | None = None,
        num_attention_heads: int | None = None,
        ffn_dim: int | None = None,
        max_position_embeddings: int | None = None,
        dropout: float | None = None,
        attention_dropout: float | None = None,
        pad_token_id: int | None = None,
        init_std: float | None = None,
    ) -> None:
        super().__init__()
        config = opt_config(
            name_or_path,
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads,
            ffn_dim=ffn_dim,
            max_position_embeddings=max_position_embeddings,
            dropout=dropout,
            attention_dropout=attention_dropout,
            pad_token_id=pad_token_id,
            init_std=init_std,
        )
        self.name_or_path = name_or_path
        self.config = config
        decoder = OPTDecoder(
            config.vocab_size,
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.ffn_dim,
            config.max_position_embeddings,
            config.dropout,
            config.attention_dropout,
            config.pad_token_id,
        )
        self.model = OPTModel(decoder)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tie_weights()
        self.register_load_state_dict_pre_hook(_complete_tied)
        self.register_load_state_dict_post_hook(_tie_again)
        self.reset_parameters(config.init_std)

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def max_positions(self) -> int:
        """Longest sequence, prompt and new tokens together."""
        return self.config.max_position_embeddings

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.decoder.embed_tokens

    def tie_weights(self) -> None:
        """Let the head share the token embeddings; to be called after anything that replaces either parameter."""
        self.lm_head.weight = self.model.decoder.embed_tokens.weight

    def reset_parameters(self, std: float) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.get_input_embeddings().weight[self.config.pad_token_id].zero_()

    def load_pretrained(self, folder: str | Path) -> None:
        """Load the weights of a local Hugging Face folder (safetensors or ``.bin``, sharded or not), strictly.

        Raises FileNotFoundError where there are none, RuntimeError that names missing, unknown or misshapen keys.
        """
        load_opt_weights(self, folder)

    def hidden_states(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: BeamCache | None = None,
    ) -> Tensor:
        """B×T×D embeddings to B×T×D states, of which `lm_head` makes logits.

        `attention_mask` is B×T, non-zero at tokens and zero at padding on either side; or bool B×T×T, True where a
        query (row) may look at a key (column), and then `position_ids` (B×T, from 0) must be given. Positions skip the
        padding.
        """
        rows, length, _ = inputs_embeds.shape
        if position_ids is None:
            if attention_mask is None:
                position_ids = torch.arange(length, device=inputs_embeds.device).expand(rows, -1)
            elif attention_mask.dim() == 2:
                position_ids = positions_of(attention_mask)
            else:
                raise ValueError("an attention_mask of B×T×T needs position_ids")
            self.check_length(length)
        mask = attention_pattern(attention_mask)
        return self.model.decoder(inputs_embeds, position_ids, mask, cache)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Logits B×T×V of ids B×T or of embeddings B×T×D; see `hidden_states` for the masks."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        return self.lm_head(self.hidden_states(inputs_embeds, attention_mask, position_ids))

    def prefill(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None, num_beams: int, max_new_tokens: int
    ) -> tuple[Tensor, "OPTDecodingState"]:
        """Read the prompts B×T×D once; see `generation.LanguageModel`."""
        rows, length, _ = inputs_embeds.shape
        self.check_length(length + max_new_tokens - 1)
        cache = BeamCache(
            num_layers=self.config.num_hidden_layers,
            prefix_mask=(
                torch.ones(rows, length, dtype=torch.bool, device=inputs_embeds.device)
                if attention_mask is None
                else attention_mask.bool()
            ),
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
        )
        hidden = self.hidden_states(inputs_embeds, attention_mask, cache=cache)  # B×T×D
        last = hidden[torch.arange(rows, device=hidden.device), cache.last_prefix_slot]  # B×D
        return self.lm_head(last), OPTDecodingState(self, cache)

    def check_length(self, length: int) -> None:
        if length > self.max_positions:
            raise ValueError(
                f"{length} tokens (queries, prompt and new ones) exceed the {self.max_positions} positions of this "
                "language model; shorten the text or max_txt_len, or build it with a larger max_position_embeddings"
            )


class OPTDecodingState:
    """One OPT in the middle of a generation; see `generation.DecodingState`.

    The K beams of a picture are fed as if they were K tokens of one sequence, with a mask that shows each only the
    prompt and its own past. So the prompt's keys exist once, and a beam that changes its parent changes a row of that
    mask, not a cache.
    """

    def __init__(self, lm: OPTForCausalLM, cache: BeamCache) -> None:
        self.lm = lm
        self.cache = cache

    def step(self, tokens: Tensor) -> Tensor:
        """Tokens B×K to logits B×K×V of the tokens after them."""
        positions = self.cache.next_positions()  # B×1
        mask = self.cache.open_step()  # B×K×S
        embeds = self.lm.get_input_embeddings()(tokens)
        hidden = self.lm.model.decoder(embeds, positions, mask[:, None], self.cache)
        return self.lm.lm_head(hidden)

    def reorder(self, parents: Tensor) -> None:
        self.cache.reorder(parents)

    def keep(self, rows: Tensor) -> None:
        self.cache.keep(rows)


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


def _complete_tied(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    # Many files hold the tied tensor once.
    head, embeddings = f"{prefix}lm_head.weight", f"{prefix}model.decoder.embed_tokens.weight"
    if head not in state_dict and embeddings in state_dict:
        state_dict[head] = state_dict[embeddings]


def _tie_again(module: OPTForCausalLM, _: object) -> None:
    # `load_state_dict(assign=True)` replaces each name's parameter by one of its own.
    module.tie_weights()


def load_opt_weights(lm: OPTForCausalLM, folder: str | Path) -> None:
    """Copy a Hugging Face folder's tensors into `lm`, one shard in memory at a time."""
    wanted = lm.state_dict()
    seen: set[str] = set()
    problems: list[str] = []
    on_meta = any(p.is_meta for p in lm.parameters())
    for shard in read_shards(folder):
        # Old files of the base model alone lack the leading `model.`.
        named = {f"model.{key}" if key.startswith("decoder.") else key: value for key, value in shard.items()}
        state: dict[str, Tensor] = {}
        for key, value in named.items():
            if key not in wanted:
                problems.append(f"unknown key {key}")
            elif value.shape != wanted[key].shape:
                problems.append(f"{key} is {tuple(value.shape)}, wanted {tuple(wanted[key].shape)}")
            else:
                state[key] = value.to(wanted[key].dtype) if on_meta else value  # otherwise copied, and cast so
        lm.load_state_dict(state, strict=False, assign=on_meta)
        seen.update(named)
    missing = wanted.keys() - seen - {"lm_head.weight"}  # tied, and left out of many files
    problems += [f"missing key {key}" for key in sorted(missing)]
    if problems:
        shown = "; ".join(problems[:10]) + ("; …" if len(problems) > 10 else "")
        raise RuntimeError(f"{folder} does not fit this OPT ({lm.name_or_path or 'own sizes'}): {shown}")
