"""Greedy search and sampling, one token at a time.

Letters: B pictures still running, K texts of each, T new tokens at most, V vocabulary, C candidate tokens.
"""

import torch
from torch import Tensor

from .decoding import GenerationConfig, GenerationOutput, LanguageModel, apply_penalties

# A nucleus is nearly always inside this many best tokens; where it is not, the whole vocabulary is sorted.
_NUCLEUS_GUESS = 512


def decode_stepwise(
    lm: LanguageModel, inputs_embeds: Tensor, attention_mask: Tensor | None, config: GenerationConfig
) -> GenerationOutput:
    """Continue prompts B×P×D (mask B×P) with the likeliest token at each step, or with K = num_return_sequences
    samples.
    """
    shape, device = (len(inputs_embeds), config.num_return_sequences), inputs_embeds.device
    sequences = torch.full((*shape, config.max_new_tokens), config.pad_token_id, device=device)
    lengths = torch.zeros(shape, dtype=torch.long, device=device)
    log_probs = torch.zeros(shape, device=device)
    running = torch.ones(shape, dtype=torch.bool, device=device)
    generator = None if config.seed is None else torch.Generator(device).manual_seed(config.seed)

    first, state = lm.prefill(inputs_embeds, attention_mask, shape[1], config.max_new_tokens)
    logits = first.float()[:, None].expand(-1, shape[1], -1)  # B×K×V
    rows = torch.arange(shape[0], device=device)
    for step in range(config.max_new_tokens):
        tokens = _choose(apply_penalties(logits, sequences[rows, :, :step], config), config, generator)
        log_prob = logits.gather(-1, tokens[..., None]).squeeze(-1) - logits.logsumexp(-1)
        sequences[rows, :, step] = tokens.where(running, config.pad_token_id)
        log_probs[rows] += log_prob * running
        lengths[rows] += running
        if config.eos_token_id is not None:
            running = running & (tokens != config.eos_token_id)
        alive = running.any(1)
        if step + 1 == config.max_new_tokens or not alive.any():
            break
        if not alive.all():
            state.keep(alive.nonzero().squeeze(1))
            rows, tokens, running = rows[alive], tokens[alive], running[alive]
        logits = state.step(tokens).float()
    lengths, log_probs = lengths.flatten(), log_probs.flatten()
    return GenerationOutput(
        sequences.flatten(0, 1)[:, : int(lengths.max())], lengths, log_probs, scores=log_probs / lengths
    )


def _choose(scores: Tensor, config: GenerationConfig, generator: torch.Generator | None) -> Tensor:
    """Tokens B×K for scores B×K×V."""
    if not config.do_sample:
        return scores.argmax(-1)
    probs, candidates = nucleus(scores, config.temperature, config.top_k, config.top_p)
    drawn = torch.multinomial(probs.flatten(0, -2), 1, generator=generator).view(*probs.shape[:-1], 1)
    return candidates.gather(-1, drawn).squeeze(-1)


def nucleus(scores: Tensor, temperature: float, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """What to draw from: probabilities …×C, which need not add up to 1 (0: cut off), and their tokens …×C.

    First `temperature` divides the scores …×V, then the `top_k` best are kept (0: all), then the fewest of these whose
    probabilities add up to `top_p`: the order of transformers.
    """
    scores = scores / temperature
    vocabulary = scores.shape[-1]
    if top_k:
        scores, tokens = scores.topk(min(top_k, vocabulary))
        probs = scores.softmax(-1)
    elif top_p < 1:
        probs, tokens = scores.softmax(-1).topk(min(_NUCLEUS_GUESS, vocabulary))
        if probs.shape[-1] < vocabulary and bool((probs.sum(-1) < top_p).any()):
            probs, tokens = scores.softmax(-1).sort(-1, descending=True)
    else:
        return scores.softmax(-1), torch.arange(vocabulary, device=scores.device).expand_as(scores)
    if top_p < 1:
        likelier = probs.cumsum(-1) - probs  # mass of the tokens before
        probs = probs.where(likelier < top_p, 0.0)
    return probs, tokens
