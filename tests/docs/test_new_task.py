"""docs/new_task.md: its blocks run one after another in one folder, and its config is as short as it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import blip2
from blip2.apis.metafile import model_entries
from blip2.utils.resources import resources_root

PAGE = Path(__file__).parents[2] / "docs" / "new_task.md"
MODEL = "blip2-tiny_shapes-caption"
COMMANDS = {"python": [sys.executable, "-c"], "shell": ["bash", "-euo", "pipefail", "-c"]}


def blocks() -> list[tuple[str, str]]:
    """(language, text) of every fenced block of the page."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def config() -> str:
    (text,) = [text for _, text in blocks() if "_base_ =" in text]
    return text


def test_the_config_has_fewer_than_15_lines():
    assert len([line for line in config().splitlines() if line.strip() and not line.startswith("#")]) < 15


@pytest.mark.slow
@pytest.mark.skipif(MODEL not in model_entries(), reason=f"{MODEL} is not in this zoo")
def test_the_page_runs_from_top_to_bottom(tmp_path):
    package = str(Path(blip2.__file__).resolve().parents[1])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = dict(os.environ, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", PYTHONPATH=package, PATH=path)
    for language, text in blocks():
        if text == config():
            (tmp_path / "my_task.py").write_text(text, encoding="utf-8")
        else:
            run(COMMANDS[language] + [text], tmp_path, environment)
    assert (tmp_path / "work_dirs/my_task/iter_20.pth").is_file()


def run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def test_the_full_size_config_that_the_page_names_exists():
    names = re.findall(r"blip2::([\w./-]+\.py)", PAGE.read_text(encoding="utf-8"))
    missing = [name for name in names if not (resources_root() / "configs" / name).is_file()]
    assert [name for name in missing if "blip2_tiny" not in name or MODEL in model_entries()] == []
