"""docs/finetuning.md: its blocks run one after another in one folder, in one process that imports torch once."""

import os
import re
import shlex
from pathlib import Path

import pytest

from blip2.apis.config import load_config
from blip2.apis.metafile import model_entries
from blip2.cli import main as blip2
from blip2.utils.resources import resources_root

TEXT = (Path(__file__).parents[2] / "docs" / "finetuning.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?:^<!-- (.*?) -->\n)?^```(\w+)\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)


def config_name(block):
    """``my_captions.py`` where a block is that file, else ''."""
    found = re.match(r"# (\w+\.py)\n", block)
    return found[1] if found else ""


def run(language, text):
    if language == "python":
        exec(compile(text, "docs/finetuning.md", "exec"), {"__name__": "page"})
        return
    for line in text.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "blip2"
        assert blip2.main(arguments) == 0, line


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for comment, language, text in BLOCKS:
        if name := config_name(text):
            Path(name).write_text(text, encoding="utf-8")
        elif not comment.startswith("not run:"):
            run(language, text)
    for name, last in (("captions", 40), ("folder", 2), ("questions", 10), ("search", 10)):
        assert Path(f"work_dirs/my_{name}/iter_{last}.pth").is_file()
    captions = capsys.readouterr().out.splitlines()
    assert "a purple ring and a red square" in captions and "a brown cross and a yellow ring" in captions


def test_the_full_size_config_loads_with_the_weights_that_the_zoo_names(tmp_path):
    (text,) = [block for _, _, block in BLOCKS if config_name(block) == "my_photos.py"]
    path = tmp_path / "my_photos.py"
    path.write_text(text, encoding="utf-8")
    config = load_config(path)
    assert config.load_from == model_entries()["blip2-opt2.7b_3rdparty-zeroshot_caption"].weights
    assert config.test_evaluator.ann_file == os.path.join("my_pictures", "val.csv")
    assert config.train_dataloader.dataset.type == "ImageTextDataset"
    assert config.model.text_backbone.with_cp


def test_configs_that_the_page_names_exist():
    names = re.findall(r"`(blip2[\w.-]+\.py)`", TEXT)
    assert len(names) == 5
    assert [name for name in names if not (resources_root() / "configs/blip2" / name).is_file()] == []
