"""`HFCausalLM`: any decoder-only language model of transformers in place of `OPTForCausalLM`.

Letters: B rows (pictures), T tokens, D width, K beams, S cached tokens, V vocabulary.
"""

import copy
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blip2.checkpoints.read import CheckpointError
from blip2.models.checks import nearest
from blip2.models.freeze import freeze
from blip2.registry import MODELS
from blip2.utils.resources import resolve_resource

from .hf_cache import cache_argument

# Copies of a prompt's keys and values that `look_ahead` makes at a time.
_COPIES = 32


@MODELS.register_module()
class HFCausalLM(nn.Module):
    """A causal language model of transformers, with the methods of `OPTForCausalLM`.

    Building reads no weights and touches no network: the architecture comes from the ``config.json`` of a local folder
    (or of Hugging Face's cache), from `config`, or from both. Weights are random until `load_pretrained` or a
    checkpoint brings them.

    Args:
        name_or_path: folder with a ``config.json`` (a relative one may lie below the resources), or a name in the
            cache.
        config: fields of transformers' config that replace those of `name_or_path`; without that, ``model_type`` (such
            as 'llama') must be among them, and what is missing has the default of that type.
        attn_implementation: transformers' choice of attention; None leaves it to transformers.
    """

    def __init__(
        self,
        name_or_path: str | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        attn_implementation: str | None = None,
    ) -> None:
        super().__init__()
        import transformers  # takes over a second

        self.name_or_path = name_or_path
        hf_config = _read_config(name_or_path, dict(config or {}))
        dtype = torch.get_default_dtype()
        build = transformers.AutoModelForCausalLM.from_config
        self.model = build(hf_config, attn_implementation=attn_implementation, dtype=dtype)
        _materialize_buffers(self.model)
        self.config = hf_config
        base = self._base_model()
        self._takes_positions = "position_ids" in inspect.signature(base.forward).parameters
        self._cache_argument = cache_argument(base)
        self._head_checked = False

    @property
    def hidden_size(self) -> int:
        return self.get_input_embeddings().embedding_dim

    @property
    def vocab_size(self) -> int:
        return self.get_input_embeddings().num_embeddings

    @property
    def max_positions(self) -> int | None:
        """Longest sequence, prompt and new tokens together; None: no limit of the architecture."""
        return getattr(self.config, "max_position_embeddings", None)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.get_input_embeddings()

    def tie_weights(self) -> None:
        self.model.tie_weights()

    def load_pretrained(self, folder: str | Path) -> None:
        """Load the weights of a local Hugging Face folder, strictly.

        Raises FileNotFoundError where there are none, CheckpointError that names missing, unknown or misshapen keys.
        """
        path = resolve_resource(folder)
        try:
            loaded, info = type(self.model).from_pretrained(
                path,
                config=self.config,
                dtype=self.get_input_embeddings().weight.dtype,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # named below, all of them
            )
        except OSError as error:
            raise FileNotFoundError(f"no weights of a language model in {path}: {error}") from error
        problems = [f"{kind.replace('_', ' ')} {sorted(map(str, info[kind]))}" for kind in _PROBLEMS if info.get(kind)]
        if problems:
            raise CheckpointError(f"{path} does not fit this {type(self.model).__name__}: {'; '.join(problems)}")
        if any(parameter.is_meta for parameter in self.model.parameters()):
            frozen = not any(parameter.requires_grad for parameter in self.model.parameters())
            self.model = loaded.train(self.model.training)
            if frozen:
                freeze(self.model)
        else:
            self.model.load_state_dict(loaded.state_dict())

    def hidden_states(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """B×T×D embeddings to B×T×D states, of which `lm_head` makes logits.

        `attention_mask` is B×T, non-zero at tokens and zero at padding; or bool B×T×T, True where a query (row) may
        look at a key (column), and then `position_ids` (B×T, from 0) must be given. Positions skip the padding.
        """
        if attention_mask is not None and attention_mask.dim() == 3:
            if position_ids is None:
                raise ValueError("an attention_mask of B×T×T needs position_ids")
            self._check_packed(inputs_embeds.shape[1])
            allowed = inputs_embeds.new_zeros(attention_mask.shape)
            attention_mask = allowed.masked_fill_(~attention_mask, torch.finfo(allowed.dtype).min)[:, None]
        elif attention_mask is not None and position_ids is None:
            position_ids = _positions(attention_mask)
        if position_ids is None:
            self.check_length(inputs_embeds.shape[1])
        return self.run(inputs_embeds, attention_mask, position_ids, None)

    def run(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, cache: Any
    ) -> Tensor:
        """Hidden states B×T×D; keys and values are added to the `cache` of transformers, if there is one."""
        positions = {"position_ids": position_ids} if self._takes_positions and position_ids is not None else {}
        output = self._base_model()(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            use_cache=cache is not None,
            return_dict=True,
            **{self._cache_argument: cache},
            **positions,
        )
        return output.last_hidden_state

    def lm_head(self, hidden: Tensor) -> Tensor:
        """Logits …×V of hidden states …×D."""
        if not self._head_checked:
            self._check_head()
        return self._logits(hidden)

    def prefill(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None, num_beams: int, max_new_tokens: int
    ) -> tuple[Tensor, "HFDecodingState"]:
        """Read the prompts B×T×D once; see `decoding.LanguageModel`."""
        import transformers

        rows, length, _ = inputs_embeds.shape
        self.check_length(length + max_new_tokens - 1)
        if attention_mask is None:
            attention_mask = torch.ones(rows, length, dtype=torch.long, device=inputs_embeds.device)
        mask = (attention_mask != 0).long()
        cache = transformers.DynamicCache(config=self.config)
        hidden = self.run(inputs_embeds, mask, _positions(mask), cache)
        last = (mask * torch.arange(1, length + 1, device=mask.device)).argmax(1)
        logits = self.lm_head(hidden[torch.arange(rows, device=mask.device), last])
        return logits, HFDecodingState(self, cache, mask, num_beams)

    def check_length(self, length: int) -> None:
        if self.max_positions is not None and length > self.max_positions:
            raise ValueError(
                f"{length} tokens (queries, prompt and new ones) exceed the {self.max_positions} positions of this "
                "language model; shorten the text or max_txt_len"
            )

    def _base_model(self) -> nn.Module:
        return getattr(self.model, self.model.base_model_prefix)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits = self.model.get_output_embeddings()(hidden)
        # What some architectures do after their head; `_check_head` finds out those that do something else.
        logits = logits * (getattr(self.config, "logit_scale", None) or 1.0)  # Cohere
        logits = logits / (getattr(self.config, "logits_scaling", None) or 1.0)  # Granite
        cap = getattr(self.config, "final_logit_softcapping", None)  # Gemma
        return logits if cap is None else (logits / cap).tanh() * cap

    @torch.no_grad()
    def _check_head(self) -> None:
        """Compare the logits of one token with those of transformers' own forward pass, once."""
        weight = self.get_input_embeddings().weight
        embeds = weight[:1][None]  # 1×1×D
        was_training = self.model.training
        self.model.eval()
        expected = self.model(inputs_embeds=embeds).logits
        found = self._logits(self.run(embeds, None, None, None))
        self.model.train(was_training)
        if not torch.allclose(found.float(), expected.float(), rtol=1e-2, atol=1e-2, equal_nan=True):
            raise ValueError(
                f"{type(self.model).__name__} makes its logits in a way that HFCausalLM does not know: use a language "
                "model whose head is a linear layer, such as Llama's"
            )
        self._head_checked = True

    def _check_packed(self, length: int) -> None:
        name = type(self.model).__name__
        if not self._takes_positions:
            raise ValueError(
                f"{name} takes no positions, so it cannot read several texts of a picture in a row: train with one "
                "text for each (captions_per_picture=1, one answer to one question a sample)"
            )
        window = getattr(self.config, "sliding_window", None)
        if window is not None and length > window:
            raise ValueError(f"{length} tokens in a row exceed {name}'s window of {window}: use fewer texts a picture")


class HFDecodingState:
    """A language model of transformers in the middle of a generation; see `decoding.DecodingState`.

    Prompts are read once and their keys and values copied for the beams at the first step.
    """

    def __init__(self, lm: HFCausalLM, cache: Any, mask: Tensor, num_beams: int) -> None:
        """`mask` is B×S, 1 at tokens of the prompt."""
        self.lm = lm
        self.cache = cache
        self.mask = mask
        self.num_beams = num_beams
        self.lengths = mask.sum(1)  # B
        self.steps = 0

    def step(self, tokens: Tensor) -> Tensor:
        """Tokens B×K to logits B×K×V of the tokens after them."""
        if not self.steps:
            self.cache.batch_repeat_interleave(self.num_beams)
        self.mask = torch.cat((self.mask, self.mask.new_ones(len(self.mask), 1)), 1)
        positions = (self.lengths + self.steps).repeat_interleave(self.num_beams)[:, None]
        self.steps += 1
        mask = self.mask.repeat_interleave(self.num_beams, 0)
        embeds = self.lm.get_input_embeddings()(tokens.flatten()[:, None])
        hidden = self.lm.run(embeds, mask, positions, self.cache)
        return self.lm.lm_head(hidden[:, -1]).unflatten(0, tokens.shape)

    def look_ahead(self, tokens: Tensor) -> Tensor:
        return torch.cat([self._look_ahead(part) for part in tokens.split(_COPIES)], 1)

    def _look_ahead(self, tokens: Tensor) -> Tensor:
        count, length = tokens.shape
        rows = len(self.lengths)
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(count)
        mask = torch.cat((self.mask, self.mask.new_ones(rows, length)), 1).repeat_interleave(count, 0)
        positions = self.lengths[:, None] + torch.arange(length, device=tokens.device)
        embeds = self.lm.get_input_embeddings()(tokens).repeat(rows, 1, 1)
        hidden = self.lm.run(embeds, mask, positions.repeat_interleave(count, 0), cache)
        return hidden.unflatten(0, (rows, count))

    def reorder(self, parents: Tensor) -> None:
        if self.steps:  # before, all beams are one
            first = torch.arange(len(parents), device=parents.device)[:, None] * self.num_beams
            self.cache.reorder_cache((first + parents).flatten())

    def keep(self, rows: Tensor) -> None:
        self.mask, self.lengths = self.mask[rows], self.lengths[rows]
        if self.steps:
            beams = torch.arange(self.num_beams, device=rows.device)
            rows = (rows[:, None] * self.num_beams + beams).flatten()
        self.cache.batch_select_indices(rows)


_PROBLEMS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


def _positions(mask: Tensor) -> Tensor:
    """Positions B×T from 0, counted over the tokens of a B×T mask only; 0 at padding before them."""
    return ((mask != 0).long().cumsum(1) - 1).clamp_min(0)


def _read_config(name_or_path: str | None, fields: dict[str, Any]) -> Any:
    """transformers' config for the arguments of `HFCausalLM`; raises ValueError naming what is unknown."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    if name_or_path is not None:
        folder = resolve_resource(name_or_path)
        try:
            base = transformers.AutoConfig.from_pretrained(
                str(folder) if folder.is_dir() else name_or_path, local_files_only=True
            )
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"{name_or_path!r} is neither a folder with a config.json nor in Hugging Face's cache; fetch it once "
                f"(`hf download {name_or_path}`), or describe it (config=dict(model_type='llama', …)). "
                f"({str(error).splitlines()[0]})"
            ) from error
    elif fields.get("model_type") in CAUSAL:
        base = transformers.AutoConfig.for_model(fields["model_type"])
    else:
        raise ValueError(
            f"HFCausalLM needs name_or_path, or in config the model_type of a causal language model of transformers, "
            f"not model_type={fields.get('model_type')!r}{nearest(fields.get('model_type'), CAUSAL)}"
        )
    if base.model_type not in CAUSAL:
        raise ValueError(f"{name_or_path!r} holds a {base.model_type}, which is no causal language model")
    if fields.pop("model_type", base.model_type) != base.model_type:
        raise ValueError(f"{name_or_path!r} holds a {base.model_type}; leave model_type out of config")
    known = [*base.to_dict(), *base.attribute_map]
    for key in fields:
        if key not in known:
            raise ValueError(f"config has a key {key!r} that a {base.model_type} does not know{nearest(key, known)}")
    if name_or_path is None:
        return transformers.AutoConfig.for_model(base.model_type, **fields)
    values = base.to_dict()
    if "num_hidden_layers" in fields:
        values.pop("layer_types", None)  # one entry a layer: made anew
    return type(base).from_dict({**values, **{base.attribute_map.get(key, key): fields[key] for key in fields}})


def _materialize_buffers(model: Any) -> None:
    """Give what no checkpoint holds (rotary frequencies) its values also in a model built on the meta device."""
    for module in model.modules():
        names = [name for name in module._non_persistent_buffers_set if module._buffers[name] is not None]
        if any(module._buffers[name].is_meta for name in names):
            for name in names:
                module._buffers[name] = torch.empty_like(module._buffers[name], device="cpu")
            with torch.device("cpu"):
                model._init_weights(module)
