"""The small model's tokenizers, learned from the scenes' language: OPT's kind of byte-level BPE for the language model,
BERT's kind of word list for the Q-Former.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer

# Ids 0 to 3, as in OPT.
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]
VOCABULARY = 640
BERT_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def train_tokenizer(texts: Iterable[str], folder: str | Path) -> Path:
    """Learn from `texts` and write ``vocab.json``, ``merges.txt`` and ``tokenizer_config.json`` into `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        texts, vocab_size=VOCABULARY, min_frequency=2, special_tokens=SPECIAL_TOKENS, show_progress=False
    )
    tokenizer.save_model(str(folder))
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_bos_token": True,
        "add_prefix_space": False,
        "bos_token": "</s>",
        "eos_token": "</s>",
        "unk_token": "</s>",
        "pad_token": "<pad>",
        "model_max_length": 128,
    }
    return _write_config(folder, config)


def write_word_list(texts: Iterable[str], folder: str | Path) -> Path:
    """Write ``vocab.txt`` (special tokens, then all words and signs of `texts`) and ``tokenizer_config.json``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    (folder / "vocab.txt").write_text("\n".join([*BERT_TOKENS, *words]) + "\n", encoding="utf-8")
    return _write_config(folder, {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64})


def _write_config(folder: Path, config: dict[str, object]) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder
