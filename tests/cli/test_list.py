"""`blip2 list`."""

import json

import pytest

from blip2.apis import list_models
from blip2.cli.main import main

TINY = "blip2-tiny_shapes-caption"


def listed(capsys, *options: str) -> list[str]:
    assert main(["list", "--names", *options]) == 0
    return capsys.readouterr().out.split()


def test_a_table_tells_task_size_score_licence_and_whether_it_is_here(capsys) -> None:
    assert main(["list"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "TASK", "SIZE", "SCORE", "LICENCE", "WEIGHTS"]
    assert [row.split()[0] for row in rows] == list_models()
    (tiny,) = (row for row in rows if row.startswith(TINY))
    (xl,) = (row for row in rows if row.startswith("blip2-flant5xl_lavis-zeroshot_vqa"))
    assert [part.strip() for part in tiny.split("  ") if part] == [
        TINY,
        "caption",
        "5.7 M",
        "CIDEr 291.3 on drawn scenes, test",
        "Apache-2.0",
        "here",
    ]
    assert xl.split("  ")[-1].strip() == "to fetch" and "3.94 B" in xl and "63.1 on VQAv2 (val)" in xl
    assert {row.index(text) for row, text in ((tiny, "Apache"), (xl, "MIT"))} == {head.index("LICENCE")}


def test_names_come_one_a_line(capsys) -> None:
    assert listed(capsys) == list_models()


def test_pattern_narrows_the_list(capsys) -> None:
    names = listed(capsys, "*opt2.7b*caption*")
    assert names and all("opt2.7b" in name and "caption" in name for name in names)


def test_task_and_place_narrow_the_list(capsys) -> None:
    assert all("retrieval" in name for name in listed(capsys, "--task", "retrieval"))
    assert listed(capsys, "--task", "caption", "--here") == [TINY]


def test_json_tells_all_that_is_known(capsys) -> None:
    assert main(["list", "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert list(entries) == list_models()
    xl = entries["blip2-flant5xl_lavis-zeroshot_vqa"]
    assert xl["weights"].endswith("/blip2_pretrained_flant5xl.pth") and not xl["here"]
    assert xl["other_sources"] == ["hf://Salesforce/blip2-flan-t5-xl"]
    assert xl["license"]["weights"] == "MIT" and xl["license"]["language_model"] == "Apache-2.0"
    gqa = [row for row in xl["results"] if row["dataset"].startswith("GQA") and row["protocol"] == "paper"]
    assert [(row["metrics"], row["config"].split("/")[-1]) for row in gqa] == [
        ({"Accuracy": 44.2}, "blip2-flant5xl_gqa_paper.py")
    ]


@pytest.mark.parametrize("form", [[], ["--json"], ["--names"]])
def test_pattern_that_matches_nothing_is_said(form: list[str], capsys) -> None:
    assert main(["list", "xyzzy*", *form]) == 1
    captured = capsys.readouterr()
    assert "'xyzzy*'" in captured.err and captured.out.strip() in ("", "[]")
