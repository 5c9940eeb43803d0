"""`blip2 list`."""

import json

import pytest

from blip2.apis import list_models
from blip2.cli.main import main


def test_names_come_one_a_line(capsys) -> None:
    assert main(["list"]) == 0
    assert capsys.readouterr().out.split() == list_models()


def test_pattern_narrows_the_list(capsys) -> None:
    assert main(["list", "*opt2.7b*caption*"]) == 0
    names = capsys.readouterr().out.split()
    assert names and all("opt2.7b" in name and "caption" in name for name in names)


def test_json_tells_tasks_config_and_weights(capsys) -> None:
    assert main(["list", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in entries] == list_models()
    assert all(set(entry) == {"name", "tasks", "parameters", "config", "weights"} for entry in entries)


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_pattern_that_matches_nothing_is_said(form: list[str], capsys) -> None:
    assert main(["list", "xyzzy*", *form]) == 1
    captured = capsys.readouterr()
    assert "'xyzzy*'" in captured.err and captured.out.strip() in ("", "[]")
