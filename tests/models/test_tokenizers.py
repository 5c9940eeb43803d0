"""Tokenizers: lazy, never silently empty, never changed by use."""

import copy
import json

import pytest
import torch

from blip2.models.language import pad_sequences
from blip2.registry import TOKENIZER

BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module")
def bert_tokenizer(tmp_path_factory):
    """A folder with as many word pieces as bert-base-uncased has."""
    folder = tmp_path_factory.mktemp("bert")
    words = [*BERT_SPECIAL, *"abcdefghijklmnopqrstuvwxyz", "photo", "dog", "##s"]
    words += [f"[unused{number}]" for number in range(30_522 - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    )
    return folder


def test_opt_tokenizer_puts_its_end_of_text_token_first(opt_tokenizer):
    tokenizer = TOKENIZER.build({"type": "AutoTokenizer", "name_or_path": str(opt_tokenizer), "use_fast": False})
    (prompt, text) = tokenizer.encode(["a photo of", "a photo of a red boat\n"])
    assert prompt[0] == tokenizer.bos_token_id == 2
    assert text[: len(prompt)] == prompt
    assert text[-1] == tokenizer.token_id("\n")
    assert tokenizer.decode([text, prompt]) == ["a photo of a red boat\n", "a photo of"]
    assert tokenizer.encode(["a"], add_special_tokens=False)[0][0] != 2


def test_blip2_tokenizer_adds_dec_and_has_the_published_length(bert_tokenizer):
    tokenizer = TOKENIZER.build({"type": "Blip2Tokenizer", "name_or_path": str(bert_tokenizer)})
    assert len(tokenizer) == 30_523
    assert tokenizer.bos_token_id == 30_522
    (ids,) = tokenizer.encode(["Photo dogs"])
    assert tokenizer.backend.convert_ids_to_tokens(ids) == ["[CLS]", "photo", "dog", "##s", "[SEP]"]


@pytest.mark.parametrize("kind", ["AutoTokenizer", "Blip2Tokenizer"])
@pytest.mark.parametrize("name", ["bert-base-uncased", "facebook/opt-2.7b", "configs/no_such_folder"])
def test_missing_files_are_an_error_that_says_what_to_fetch(monkeypatch, tmp_path, kind, name):
    # Without the check, transformers 5.23 returns a BERT tokenizer of five tokens for these, silently.
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    tokenizer = TOKENIZER.build({"type": kind, "name_or_path": name})
    with pytest.raises((FileNotFoundError, ValueError), match=rf"(?s){name}.*from_pretrained\('{name}'\).*folder"):
        len(tokenizer)


def test_folder_without_tokenizer_config_is_an_error(tmp_path, opt_tokenizer):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_text((opt_tokenizer / name).read_text())
    with pytest.raises(FileNotFoundError, match=r"tokenizer_config\.json"):
        len(TOKENIZER.build({"type": "AutoTokenizer", "name_or_path": str(tmp_path)}))


def test_tokenizer_without_a_vocabulary_is_an_error(tmp_path, opt_tokenizer):
    (tmp_path / "tokenizer_config.json").write_text((opt_tokenizer / "tokenizer_config.json").read_text())
    with pytest.raises((FileNotFoundError, ValueError), match="tokenizer"):
        len(TOKENIZER.build({"type": "AutoTokenizer", "name_or_path": str(tmp_path)}))


def test_building_reads_nothing_and_relative_folders_lie_below_the_resources(tmp_path, monkeypatch, opt_tokenizer):
    from blip2.utils import resources

    tokenizer = TOKENIZER.build({"type": "AutoTokenizer", "name_or_path": "configs/tokenizer"})
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tokenizer").symlink_to(opt_tokenizer)
    monkeypatch.setattr(resources, "resources_root", lambda: tmp_path)
    assert len(tokenizer) == 300


def test_use_changes_no_state(opt_tokenizer):
    tokenizer = TOKENIZER.build({"type": "AutoTokenizer", "name_or_path": str(opt_tokenizer)})
    backend = tokenizer.backend

    def state():
        rust = backend.backend_tokenizer
        return copy.deepcopy(
            (backend.padding_side, backend.truncation_side, rust.padding, rust.truncation, len(backend))
        )

    before = state()
    tokenizer.decode(tokenizer.encode(["a photo", "a"]))
    assert state() == before


def test_a_text_of_several_tokens_is_no_end_token(opt_tokenizer):
    tokenizer = TOKENIZER.build({"type": "AutoTokenizer", "name_or_path": str(opt_tokenizer)})
    with pytest.raises(ValueError, match="'a photo' is not one token"):
        tokenizer.token_id("a photo")


def test_padding_on_either_side():
    left, left_mask = pad_sequences([[5, 6, 7], [8]], pad_token_id=1, side="left")
    right, right_mask = pad_sequences([[5, 6, 7], [8]], pad_token_id=1, side="right")
    assert left.tolist() == [[5, 6, 7], [1, 1, 8]]
    assert left_mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert right.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert right_mask.dtype == torch.int64 and right_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
