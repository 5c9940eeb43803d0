"""`OPTForCausalLM`, a decoder-only language model (Zhang et al. 2022, arXiv 2205.01068), and how it generates.

Letters: B rows (pictures), T tokens, D width, K beams, S cached tokens, V vocabulary.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from blip2.models.linear import Linear
from blip2.registry import MODELS

from .architectures import opt_config
from .kv_cache import BeamCache
from .opt_layers import OPTModel, attention_pattern, positions_of
from .weights import keep_tied, load_hf_weights

_TIED = ("model.decoder.embed_tokens.weight", "lm_head.weight")


@MODELS.register_module()
class OPTForCausalLM(nn.Module):
    """OPT with its language-model head, which is the token embeddings' weight in every published OPT.

    Building reads no weights and touches no network: sizes come from the published name (``facebook/opt-2.7b``), from
    the ``config.json`` of a local folder, or from the other arguments, which win. Weights are random until
    `load_pretrained` or a checkpoint brings them.

    Args:
        name_or_path: published name, or folder with a ``config.json`` (a relative one may lie below the resources).
        vocab_size … attention_dropout: override the sizes of `name_or_path` (without it: of opt-125m).
        pad_token_id: row of the token embeddings that is zero at the start and gets no gradient as an input.
        init_std: standard deviation of the random weights.
        tie_word_embeddings: False gives the head a weight of its own, for models that were fine-tuned so.
        with_cp: gradient checkpointing: where gradients go through the model (to the queries, if it is frozen), layers
            compute their activations again on the way back instead of keeping them.
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
        tie_word_embeddings: bool | None = None,
        with_cp: bool = False,
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
            tie_word_embeddings=tie_word_embeddings,
        )
        self.name_or_path = name_or_path
        self.config = config
        self.model = OPTModel(config, with_cp)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self._tied = _TIED if config.tie_word_embeddings else ()
        self.tie_weights()
        keep_tied(self, self._tied)
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
        """Let the head share the token embeddings, unless it has a weight of its own; to be called after anything that
        replaces either parameter."""
        if self._tied:
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

        Raises FileNotFoundError where there are none, CheckpointError that names missing, unknown or misshapen keys.
        """
        load_hf_weights(self, folder, self._tied)

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

    def look_ahead(self, tokens: Tensor) -> Tensor:
        positions, mask = self.cache.open_branches(*tokens.shape)
        embeds = self.lm.get_input_embeddings()(tokens.flatten()).expand(len(positions), -1, -1)
        hidden = self.lm.model.decoder(embeds, positions, mask[:, None], self.cache)
        return hidden.unflatten(1, tokens.shape)

    def reorder(self, parents: Tensor) -> None:
        self.cache.reorder(parents)

    def keep(self, rows: Tensor) -> None:
        self.cache.keep(rows)
