"""Records what the beam search of older versions of transformers finds, for tests/models/test_beam_lengths.py.

    pip download --no-deps transformers==4.31.0 && unzip transformers-4.31.0*.whl -d 4.31
    pip download --no-deps transformers==4.25.1 && unzip transformers-4.25.1*.whl -d 4.25
    python recipe.py --start 4.31 --prompt 4.25 > searches.json

Only the scorer (`transformers/generation/beam_search.py`) is theirs; these versions themselves want libraries as old
as they are. The loop around it is the one that their `generate` has for beams: log-probabilities, least length, the 2K
best, the scorer, until all are done or the longest length is reached. 4.33.2 gives what 4.31.0 gives.
"""

import argparse
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import torch
from toy import CASES, EOS, PAD, PREFIX, ROWS, SEEDS, VOCABULARY, Table


def scorer_of(folder: Path, name: str) -> Any:
    """`BeamSearchScorer` of an unpacked wheel."""
    package = f"older_{name}"
    for module in (package, f"{package}.utils", f"{package}.generation"):
        sys.modules[module] = types.ModuleType(module)
        sys.modules[module].__path__ = []  # type: ignore[attr-defined]
    sys.modules[f"{package}.utils"].add_start_docstrings = lambda *_: lambda kind: kind  # type: ignore[attr-defined]
    for file in ("beam_constraints", "beam_search"):
        full = f"{package}.generation.{file}"
        spec = importlib.util.spec_from_file_location(full, folder / "transformers" / "generation" / f"{file}.py")
        assert spec and spec.loader
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[f"{package}.generation.beam_search"].BeamSearchScorer


def search(kind: Any, seed: int, way: str, penalty: float, least: int, beams: int, longest: int) -> list[list[int]]:
    table, before = Table(seed), 1 if way == "start" else PREFIX
    scorer = kind(ROWS, beams, torch.device("cpu"), length_penalty=penalty, do_early_stopping=False)
    ids = torch.zeros(ROWS * beams, before, dtype=torch.long)
    rows = torch.arange(ROWS).repeat_interleave(beams)
    scores = torch.zeros(ROWS, beams, dtype=torch.float64)
    scores[:, 1:] = -1e9
    scores = scores.flatten()
    for place in range(longest):
        log_probs = table.logits(rows, place, ids[:, -1]).log_softmax(-1)
        if ids.shape[1] < least:
            log_probs[:, EOS] = -torch.inf
        candidates = (log_probs + scores[:, None]).view(ROWS, beams * VOCABULARY)
        best, index = candidates.topk(2 * beams)
        found = scorer.process(ids, best, index % VOCABULARY, index // VOCABULARY, pad_token_id=PAD, eos_token_id=EOS)
        scores = found["next_beam_scores"]
        ids = torch.cat((ids[found["next_beam_indices"]], found["next_beam_tokens"][:, None]), 1)
        if scorer.is_done:
            break
    done = scorer.finalize(ids, scores, None, None, max_length=before + longest, pad_token_id=PAD, eos_token_id=EOS)[
        "sequences"
    ]
    texts = done[:, before:].tolist()
    return [text[: text.index(EOS) + 1] if EOS in text else text for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, required=True, help="unpacked transformers 4.27 to 4.3x")
    parser.add_argument("--prompt", type=Path, required=True, help="unpacked transformers 4.25 or 4.26")
    args = parser.parse_args()
    kinds = {way: scorer_of(getattr(args, way), way) for way in ("start", "prompt")}
    found = [[search(kinds[case[0]], seed, *case) for seed in SEEDS] for case in CASES]
    print("[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in found) + "\n]")


if __name__ == "__main__":
    main()
