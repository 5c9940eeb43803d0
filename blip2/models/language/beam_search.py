"""Beam search, token for token that of ``generate`` of transformers 5.23 with ``early_stopping=False``.

With ``count_lengths`` 'start' or 'prompt' it is that of older versions. These not only count lengths in another way,
but also compare the best candidate, ended or not, with the finished texts when they decide whether to go on, and let
what is cut at the longest length compete with what ended there.

Letters: B pictures still running, K beams, T new tokens at most, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .decoding import GenerationConfig, GenerationOutput, LanguageModel, apply_penalties

# What transformers adds to a score that must not win; the same number here, so that even its corner cases agree.
_NEVER = -1.0e9


@dataclass
class _Beams:
    """n texts of each of B pictures."""

    tokens: Tensor  # B×n×T, padding after the end
    scores: Tensor  # B×n, what they are ranked by
    log_probs: Tensor  # B×n, of the language model alone
    lengths: Tensor  # B×n; 0 marks a place without a finished text

    def pick(self, index: Tensor) -> "_Beams":
        """The texts `index` (B×m) of each picture."""
        tokens = self.tokens.gather(1, index[..., None].expand(-1, -1, self.tokens.shape[-1]))
        return _Beams(tokens, *(field.gather(1, index) for field in (self.scores, self.log_probs, self.lengths)))

    def joined(self, other: "_Beams") -> "_Beams":
        return _Beams(*(torch.cat(pair, 1) for pair in zip(self._fields(), other._fields(), strict=True)))

    def rows(self, rows: Tensor) -> "_Beams":
        return _Beams(*(field[rows] for field in self._fields()))

    def store(self, rows: Tensor, other: "_Beams") -> None:
        for field, value in zip(self._fields(), other._fields(), strict=True):
            field[rows] = value

    def _fields(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.tokens, self.scores, self.log_probs, self.lengths


def beam_search(
    lm: LanguageModel, inputs_embeds: Tensor, attention_mask: Tensor | None, config: GenerationConfig
) -> GenerationOutput:
    """Continue prompts B×P×D (mask B×P) with the `num_beams` best texts that the search finds."""
    first, state = lm.prefill(inputs_embeds, attention_mask, config.num_beams, config.max_new_tokens)
    logits = first[:, None].expand(-1, config.num_beams, -1)  # B×K×V
    beams = _empty(len(first), config, first.device)
    beams.scores[:, 1:] = _NEVER  # all beams start alike: only the first may bring the second tokens
    finished = _empty(len(first), config, first.device)
    finished.scores.fill_(_NEVER)

    rows = torch.arange(len(first), device=first.device)
    older = config.count_lengths != "new"
    for length in range(1, config.max_new_tokens + 1):
        candidates, parents = _continue(beams, logits, length, config)
        last = length == config.max_new_tokens
        ended = torch.full_like(candidates.lengths, last and not older, dtype=torch.bool)
        if config.eos_token_id is not None:
            ended |= candidates.tokens[:, :, length - 1] == config.eos_token_id
        counted = _counted(length, config)
        best = _finish(finished.rows(rows), candidates, ended, length, counted.ended, config)
        finished.store(rows, best)
        if last and not older:
            break

        likeliest = candidates.scores[:, 0]
        # There are 2K candidates and each beam ends in at most one of them, so K that go on are always left.
        candidates.scores = candidates.scores + ended * _NEVER
        chosen = candidates.scores.topk(config.num_beams).indices
        beams, parents = candidates.pick(chosen), parents.gather(1, chosen)
        attainable = (likeliest if older else beams.scores[:, 0]) / counted.attainable**config.length_penalty
        improvable = (best.lengths == 0).any(1) | (attainable > best.scores.amin(1))
        if last:
            cut = improvable[:, None].expand_as(beams.scores)
            finished.store(rows, _finish(best, beams, cut, length, counted.cut, config))
        if last or not improvable.any():
            break
        state.reorder(parents)
        if not improvable.all():
            state.keep(improvable.nonzero().squeeze(1))
            rows, beams = rows[improvable], beams.rows(improvable)
        logits = state.step(beams.tokens[:, :, length - 1])
    return _output(finished, config)


def _empty(rows: int, config: GenerationConfig, device: torch.device) -> _Beams:
    shape = (rows, config.num_beams)
    return _Beams(
        tokens=torch.full((*shape, config.max_new_tokens), config.pad_token_id, device=device),
        scores=torch.zeros(shape, device=device),
        log_probs=torch.zeros(shape, device=device),
        lengths=torch.zeros(shape, dtype=torch.long, device=device),
    )


def _continue(beams: _Beams, logits: Tensor, length: int, config: GenerationConfig) -> tuple[_Beams, Tensor]:
    """The 2K best continuations of each picture, one token longer, and the beams (B×2K) that they continue."""
    log_probs = logits.float().log_softmax(-1)  # B×K×V
    scores = apply_penalties(log_probs, beams.tokens[:, :, : length - 1], config)
    # The 2K best of all K·V are among the 2K best of each beam, so nothing as long as K·V is ever built or sorted.
    count = 2 * config.num_beams
    per_beam, tokens = scores.topk(min(count, scores.shape[-1]))  # B×K×2K
    best, index = (beams.scores[..., None] + per_beam).flatten(1).topk(count)  # B×2K
    parents = index // per_beam.shape[-1]
    candidates = beams.pick(parents)
    candidates.tokens[:, :, length - 1] = tokens.flatten(1).gather(1, index)
    candidates.scores = best
    candidates.log_probs = (beams.log_probs[..., None] + log_probs.gather(-1, tokens)).flatten(1).gather(1, index)
    return candidates, parents


@dataclass(frozen=True)
class _Counted:
    """As how long texts count, of which the newest token has just been chosen."""

    ended: int  # that token ends it
    cut: int  # it is the last for want of room
    attainable: int  # for what may still become of it


def _counted(length: int, config: GenerationConfig) -> _Counted:
    before = config.counted_before
    if config.count_lengths == "new":
        return _Counted(length, length, length)
    # The older ways rank a text when its end is found, and so without it; the oldest stops by the length before too.
    without_end = before + length - 1
    return _Counted(without_end, before + length, without_end if config.count_lengths == "prompt" else before + length)


def _finish(
    finished: _Beams, candidates: _Beams, ended: Tensor, length: int, counted: int, config: GenerationConfig
) -> _Beams:
    """The K best finished texts, given those among the first K candidates that have just `ended` (B×2K, or B×K).

    They have `length` tokens, and count as `counted`.
    """
    ended = ended & (torch.arange(ended.shape[1], device=ended.device) < config.num_beams)
    scores = candidates.scores / counted**config.length_penalty + ~ended * _NEVER
    new = _Beams(candidates.tokens, scores, candidates.log_probs, length * ended)
    merged = finished.joined(new)
    return merged.pick(merged.scores.topk(config.num_beams).indices)


def _output(finished: _Beams, config: GenerationConfig) -> GenerationOutput:
    best = _Beams(*(field[:, : config.num_return_sequences].flatten(0, 1) for field in finished._fields()))
    return GenerationOutput(
        sequences=best.tokens[:, : int(best.lengths.max())],
        lengths=best.lengths,
        log_probs=best.log_probs,
        scores=best.log_probs / best.lengths,
        beam_scores=best.scores,
    )
