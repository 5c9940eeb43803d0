"""The older ways of counting lengths, against the beam scorers of transformers 4.31 and 4.25 (see the recipe)."""

import json
import sys
from pathlib import Path

import pytest
import torch

from blip2.models.language.generation import GenerationConfig, generate

FOLDER = Path(__file__).parents[1] / "data" / "beam_lengths"
sys.path.insert(0, str(FOLDER))

from toy import CASES, EOS, PAD, PREFIX, ROWS, SEEDS, Table  # noqa: E402

RECORDED = json.loads((FOLDER / "searches.json").read_text())
NOTHING = torch.zeros(ROWS, 1, 1)


def found(way, penalty, least, beams, longest, seed, prefix=PREFIX):
    config = GenerationConfig(
        eos_token_id=EOS,
        pad_token_id=PAD,
        max_new_tokens=longest,
        min_length=least,
        num_beams=beams,
        length_penalty=penalty,
        count_lengths=way,
        prompt_tokens=prefix,
    )
    output = generate(Table(seed), NOTHING, None, config)
    rows = zip(output.sequences.tolist(), output.lengths.tolist(), strict=True)
    return [row[:length] for row, length in rows]


@pytest.mark.parametrize(("case", "recorded"), list(zip(CASES, RECORDED, strict=True)), ids=str)
def test_texts_are_those_of_the_version_that_counted_so(case, recorded):
    assert [found(*case, seed) for seed in SEEDS] == recorded


def test_the_ways_differ_from_one_another_and_from_todays():
    """Otherwise the recorded searches could not tell them apart."""
    penalties = sorted({case[1] for case in CASES} - {0.0})
    texts = {
        way: [found(way, penalty, 5, 5, 9, seed) for penalty in penalties for seed in SEEDS]
        for way in ("new", "start", "prompt")
    }
    assert texts["new"] != texts["start"] != texts["prompt"] != texts["new"]


def test_a_least_length_counts_what_is_before():
    """With three tokens before, one new one makes four: the end may come next."""
    shortest = {
        way: min(len(text) for seed in range(20) for text in found(way, 0.0, 4, 3, 9, seed))
        for way in ("new", "start", "prompt")
    }
    assert shortest == {"new": 5, "start": 4, "prompt": 2}


def test_an_unknown_way_is_named():
    with pytest.raises(ValueError, match="count_lengths='old' is unknown: choose one of 'new', 'start', 'prompt'"):
        GenerationConfig(eos_token_id=EOS, pad_token_id=PAD, count_lengths="old")
