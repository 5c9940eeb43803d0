"""What text generation asks of a language model, what a user may choose, and what comes out.

Letters: B pictures, K beams (or samples) of each, P prompt tokens, T new tokens, D width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

CountLengths = Literal["new", "start", "prompt"]
COUNT_LENGTHS = get_args(CountLengths)


class DecodingState(Protocol):
    """A language model in the middle of writing K continuations of each of B prompts."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to each continuation (B×K) and return the logits B×K×V of the next."""

    def look_ahead(self, tokens: Tensor) -> Tensor:
        """Hidden states B×C×L×D of C texts of L tokens (C×L; padding at the end) right after each prompt.

        To be called before any `step`, as often as wanted: nothing is appended. There must be room: C · L may not be
        more than ``num_beams · (max_new_tokens - 1)`` of `prefill`.
        """

    def reorder(self, parents: Tensor) -> None:
        """Let continuation k of picture b go on from the past of continuation ``parents[b, k]`` (B×K)."""

    def keep(self, rows: Tensor) -> None:
        """Forget all pictures but those at the ascending indices `rows`."""


class LanguageModel(Protocol):
    """A language model that `generate` and `rank` can drive."""

    def prefill(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None, num_beams: int, max_new_tokens: int
    ) -> tuple[Tensor, DecodingState]:
        """Read prompts B×P×D (mask B×P, zero at padding on either side) once each.

        Returns the logits B×V of the first new token, and a state ready to continue `num_beams` copies of each prompt.
        """

    def lm_head(self, hidden: Tensor) -> Tensor:
        """Logits …×V of hidden states …×D."""


@dataclass(frozen=True)
class GenerationConfig:
    """How to generate.

    Attributes:
        eos_token_id: the token that ends a text; None: only `max_new_tokens` does.
        pad_token_id: fills sequences after their end.
        max_new_tokens: longest text in tokens, the end token included.
        min_length: the end token is not chosen before this many other new tokens.
        num_beams: width of the beam search; 1 is greedy search (or sampling).
        num_return_sequences: texts per prompt, the best first; at most `num_beams` unless sampled.
        length_penalty: beams are ranked by their log-probability divided by ``length ** length_penalty``.
        repetition_penalty: above 1, tokens already generated become less likely (Keskar et al. 2019, arXiv 1909.05858).
            The prompt is not counted.
        do_sample: draw tokens at random instead of taking the best.
        top_p: sample among the fewest tokens whose probabilities add up to this (nucleus sampling, arXiv 1904.09751).
        top_k: sample among this many tokens; 0: all.
        temperature: divides the logits before sampling.
        seed: makes sampling repeatable for one batch; None uses torch's global generator.
        count_lengths: what `min_length` and `length_penalty` count, and with it how beams are finished. 'new': the new
            tokens, as transformers does now. Two older ways, in which published scores were measured: 'start' counts a
            token before them too (transformers 4.27 to 4.3x for `inputs_embeds`, whose dummy start token it counted;
            and for the start token of T5's decoder), 'prompt' the ids of the prompt (4.25 and 4.26, as LAVIS's first
            release used it for OPT). In both the end token of a finished text does not count.
        prompt_tokens: for 'prompt': number of ids of the longest prompt of the batch, padding being counted as well.
    """

    eos_token_id: int | None
    pad_token_id: int
    max_new_tokens: int = 20
    min_length: int = 0
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    do_sample: bool = False
    top_p: float = 1.0
    top_k: int = 0
    temperature: float = 1.0
    seed: int | None = None
    count_lengths: CountLengths = "new"
    prompt_tokens: int = 0

    @property
    def counted_before(self) -> int:
        """Tokens before the new ones that count."""
        return {"new": 0, "start": 1, "prompt": self.prompt_tokens}[self.count_lengths]

    def end_is_forbidden_after(self, length: int) -> bool:
        """Whether `min_length` does not let a text end after `length` tokens."""
        return self.eos_token_id is not None and self.counted_before + length < self.min_length

    def __post_init__(self) -> None:
        if self.count_lengths not in COUNT_LENGTHS:
            raise ValueError(
                f"count_lengths={self.count_lengths!r} is unknown: choose one of {', '.join(map(repr, COUNT_LENGTHS))}"
            )
        for name in ("max_new_tokens", "num_beams", "num_return_sequences"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("min_length", "top_k"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        for name in ("repetition_penalty", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be above 0 and at most 1")
        if self.do_sample and self.num_beams > 1:
            raise ValueError(f"do_sample=True goes with num_beams=1, not {self.num_beams}: beams are not sampled")
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} is more than num_beams={self.num_beams}: raise "
                "num_beams, or set do_sample=True"
            )


@dataclass(frozen=True)
class GenerationOutput:
    """What `generate` returns: R = B · num_return_sequences rows.

    Those of one picture are next to each other, the best first; samples as drawn.

    Attributes:
        sequences: R×T ids of the new tokens, the end token included, then padding.
        lengths: R, number of new tokens, the end token included.
        log_probs: R, the language model's own log-probabilities of those tokens (before any penalty, temperature or
            cut), summed.
        scores: R, ``log_probs / lengths``.
        beam_scores: R, what beam search ranked by: log-probabilities after `min_length` and `repetition_penalty`,
            summed and divided by ``length ** length_penalty``. None without beams.
    """

    sequences: Tensor
    lengths: Tensor
    log_probs: Tensor
    scores: Tensor
    beam_scores: Tensor | None = None

    @classmethod
    def joined(cls, parts: "Sequence[GenerationOutput]", pad_token_id: int) -> "GenerationOutput":
        """The rows of all parts, with one length of sequences."""
        if len(parts) == 1:
            return parts[0]
        longest = max(part.sequences.shape[1] for part in parts)
        padded = [F.pad(p.sequences, (0, longest - p.sequences.shape[1]), value=pad_token_id) for p in parts]
        beam_scores = [part.beam_scores for part in parts if part.beam_scores is not None]
        return cls(
            sequences=torch.cat(padded),
            lengths=torch.cat([part.lengths for part in parts]),
            log_probs=torch.cat([part.log_probs for part in parts]),
            scores=torch.cat([part.scores for part in parts]),
            beam_scores=torch.cat(beam_scores) if beam_scores else None,
        )


def penalise_repetition(scores: Tensor, tokens: Tensor, config: GenerationConfig) -> Tensor:
    """Scores B×K×V (logits or log-probabilities) of the token after B×K×T new `tokens`, those in `tokens` lowered."""
    if config.repetition_penalty == 1.0 or not tokens.shape[-1]:
        return scores
    seen = scores.gather(-1, tokens)
    penalty = config.repetition_penalty
    return scores.scatter(-1, tokens, torch.where(seen < 0, seen * penalty, seen / penalty))


def apply_penalties(scores: Tensor, tokens: Tensor, config: GenerationConfig) -> Tensor:
    """`penalise_repetition`, and the end token made impossible where it is not allowed yet; the arguments stay."""
    scores = penalise_repetition(scores, tokens, config)
    if config.end_is_forbidden_after(tokens.shape[-1]):
        scores = scores.index_fill(-1, torch.tensor([config.eos_token_id], device=scores.device), -torch.inf)
    return scores
