"""Ranking of texts against one plain forward pass for each prompt and text."""

import pytest
import torch
from torch.testing import assert_close

from blip2.models.language.ranking import rank

VOCAB = 60
TEXTS = [[5, 7], [9], [11, 12, 13, 7], [5, 8, 7], [30, 31, 32, 33, 34, 7], [2, 7], [40, 7]]


def prompts(padded):
    embeds = torch.randn(3, 6, 32, generator=torch.Generator().manual_seed(1)).double()
    mask = torch.ones(3, 6, dtype=torch.long)
    if padded:
        mask[0, :2], mask[2, 2:4] = 0, 0  # on the left, and between the queries and the prompt
    return embeds, mask


@torch.no_grad()
def twin(peer, embeds, mask, texts):
    """Log-probabilities by the model of transformers, prompt by prompt, text by text, nothing padded."""
    scores = torch.zeros(len(embeds), len(texts)).double()
    for row, real in enumerate(mask.bool()):
        for column, text in enumerate(texts):
            ids = torch.tensor([text])
            inputs = torch.cat((embeds[row : row + 1, real], peer.get_input_embeddings()(ids)), 1)
            log_probs = peer(inputs_embeds=inputs).logits[0, -len(text) - 1 : -1].log_softmax(-1)
            scores[row, column] = log_probs.gather(1, ids.T).sum()
    return scores


@pytest.fixture
def pair(opt_pair, liven):
    peer, ours = opt_pair(VOCAB)
    liven(peer, 0, lm=peer, eos=7)
    ours.load_state_dict(peer.state_dict())
    return peer.double(), ours.double()


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("tokens_at_once", [1, 12, 1024], ids=["one text at a time", "portions", "all at once"])
def test_scores_are_the_log_probabilities_of_a_forward_pass_for_each_text(pair, padded, tokens_at_once):
    peer, ours = pair
    embeds, mask = prompts(padded)
    found = rank(ours, embeds, mask if padded else None, TEXTS, tokens_at_once)
    assert_close(found.double(), twin(peer, embeds, mask, TEXTS), atol=1e-5, rtol=1e-5)


def test_prompts_are_read_once_whatever_the_number_of_texts(pair, monkeypatch):
    _, ours = pair
    fed = []
    decoder = ours.model.decoder
    monkeypatch.setattr(decoder, "forward", lambda x, *rest: fed.append(tuple(x.shape[:2])) or forward(x, *rest))
    forward = type(decoder).forward.__get__(decoder)
    rank(ours, *prompts(False), TEXTS, tokens_at_once=12)
    assert fed[0] == (3, 6) and len(fed) == 5
    # Portions of at most four tokens a prompt, or of one text; a text's last token is not fed.
    assert [length for _, length in fed[1:]] == [4 * 1, 1 * 2, 1 * 3, 1 * 5]


def test_more_texts_than_positions_can_be_ranked(pair):
    peer, ours = pair
    embeds, mask = prompts(False)
    texts = [[first, second, 7] for first in range(10, 20) for second in range(20, 30)]  # 64 positions, 200 tokens
    assert_close(rank(ours, embeds, None, texts).double(), twin(peer, embeds, mask, texts), atol=1e-5, rtol=1e-5)


def test_texts_without_tokens_are_an_error(pair):
    _, ours = pair
    with pytest.raises(ValueError, match="nothing to rank"):
        rank(ours, *prompts(False), [])
    with pytest.raises(ValueError, match="none without tokens"):
        rank(ours, *prompts(False), [[5], []])


def test_texts_beyond_the_positions_are_an_error(pair):
    _, ours = pair
    with pytest.raises(ValueError, match="64 positions"):
        rank(ours, *prompts(False), [[5] * 60, [7]])
