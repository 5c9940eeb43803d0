"""The Python on the small models' page runs, with a picture and a folder of the names that it has."""

import re
import shutil
from pathlib import Path

import pytest

from blip2.utils.resources import resources_root

TEXT = (resources_root() / "configs/blip2_tiny/README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?<!-->\n)^```python\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", BLOCKS)
def test_the_block_runs(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BLIP2_HOME", str(tmp_path / "home"))
    Path("folder").mkdir()
    for number in (1, 2):
        shutil.copy(resources_root() / "demo" / f"scene_{number}.png", f"folder/{number}.png")
    shutil.copy("folder/1.png", "picture.jpg")
    exec(compile(text, "README.md", "exec"), {"__name__": "page"})


def test_there_is_a_block_a_task():
    assert len(BLOCKS) == 5
