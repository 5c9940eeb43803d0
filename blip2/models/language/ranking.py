"""How likely given texts are after a prompt.

Letters: B prompts, P prompt tokens, C texts, L tokens of the longest, D width, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .decoding import DecodingState, LanguageModel
from .tokenizers import pad_sequences

# Tokens, of all prompts together, whose logits exist at one time: 200 MB of them with OPT's vocabulary.
_TOKENS_AT_ONCE = 1024


@torch.no_grad()
def rank(
    lm: LanguageModel,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    texts: Sequence[Sequence[int]],
    tokens_at_once: int = _TOKENS_AT_ONCE,
) -> Tensor:
    """Log-probabilities B×C of texts of token ids (end tokens included) after prompts B×P×D with their mask B×P.

    A prompt is read once for all texts. The texts go through the model side by side, in portions of `tokens_at_once`
    over all prompts, so that nothing grows with the number of texts but the result.
    """
    if not texts or not all(texts):
        raise ValueError("there is nothing to rank: give at least one text, and none without tokens")
    portions = list(_portions(texts, max(1, tokens_at_once // len(inputs_embeds))))
    longest = max(map(len, texts))
    room = max(len(portion) * (len(texts[portion[-1]]) - 1) for portion in portions)
    first, state = lm.prefill(inputs_embeds, attention_mask, max(1, math.ceil(room / max(1, longest - 1))), longest)
    start = torch.tensor([text[0] for text in texts], device=first.device)
    scores = first.float().log_softmax(-1)[:, start]  # B×C
    for portion in portions:
        if len(texts[portion[-1]]) > 1:
            scores[:, portion] += _rest(lm, state, [texts[index] for index in portion], first.device)
    return scores


def _portions(texts: Sequence[Sequence[int]], most: int) -> Iterator[list[int]]:
    """Indices of texts that go through the model together: of about one length, at most `most` tokens with padding."""
    portion: list[int] = []
    for index in sorted(range(len(texts)), key=lambda index: len(texts[index])):
        if portion and (len(portion) + 1) * (len(texts[index]) - 1) > most:
            yield portion
            portion = []
        portion.append(index)
    yield portion


def _rest(lm: LanguageModel, state: DecodingState, texts: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Log-probabilities B×C of all tokens but the first of each text."""
    ids, _ = pad_sequences([text[:-1] for text in texts], 0, "right", device)  # the last predicts nothing: not fed
    targets, learned = pad_sequences([text[1:] for text in texts], 0, "right", device)
    which, place = learned.nonzero(as_tuple=True)
    hidden = state.look_ahead(ids)[:, which, place]  # B×N×D
    logits = lm.lm_head(hidden).float()
    chosen = targets[which, place].expand(len(logits), -1)
    log_probs = logits.gather(-1, chosen[..., None]).squeeze(-1) - logits.logsumexp(-1)
    return log_probs.new_zeros(len(logits), len(texts)).index_add_(1, which, log_probs)
