"""A small tokenizer of transformers' T5 class."""

import json
from collections.abc import Sequence
from pathlib import Path

import transformers
from tokenizers import SentencePieceUnigramTokenizer

WORDS = [
    "a photo of a red boat on the water below a bridge",
    "a photo of two children who fly a kite above the hill",
    "a small blue cup stands to the left of a yellow plate",
    "three birds sit on a wire and one flies away",
]


def save_t5_tokenizer(folder: Path, texts: Sequence[str] = ()) -> Path:
    """Writes one of at most 63 tokens that knows the letters of `texts`: padding is 0, the end ``</s>`` is 1."""
    trained = SentencePieceUnigramTokenizer()
    trained.train_from_iterator(
        [*WORDS, *texts],
        vocab_size=60,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    vocabulary = json.loads(trained.to_str())["model"]["vocab"]
    assert len(vocabulary) <= 63
    transformers.T5Tokenizer(vocab=[tuple(entry) for entry in vocabulary], extra_ids=0).save_pretrained(folder)
    return folder
