"""The cost of the stages at several values of one number."""

import json

import pytest

from blip2.benchmark.growth import growth
from blip2.benchmark.work import preset
from blip2.cli.main import main

TINY = ["--preset", "tiny", "--repeats", "1", "--warmup", "0"]


def test_each_value_is_timed_with_the_rest_as_it_was(tmp_path, capsys):
    out = tmp_path / "growth.json"
    assert main(["benchmark", *TINY, "--max-new-tokens", "3", "--growth", "num-beams=1,2", "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert "num_beams" in text and "(1.00 ×)" in text
    record = json.loads(out.read_text())
    assert record["values"] == [1, 2]
    assert [report["work"]["num_beams"] for report in record["reports"]] == [1, 2]
    assert {report["work"]["max_new_tokens"] for report in record["reports"]} == {3}


def test_pixels_are_those_of_picture_and_model():
    config, work = preset("tiny")
    found = growth(config, work, "pixels", [28, 56], name_of_run="tiny", repeats=1, warmup=0)
    assert [report.sizes["picture"] for report in found.reports] == [[28, 28], [56, 56]]
    small, large = (report.usage["blip2"]["vision"].flops for report in found.reports)
    assert large > 3 * small
    assert config.model.vision_backbone.img_size == 28


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--growth", "num-beam=1,2"], "Did you mean 'num_beams'"),
        (["--growth", "texts=1,2"], "the work has no 'texts'"),
        (["--growth", "num-beams=1", "--peer", "transformers"], "leave out --peer"),
        (["--growth", "num-beams=1", "--suite"], "--suite says itself"),
    ],
)
def test_wrong_options_are_told(options, said, capsys):
    assert main(["benchmark", *TINY, *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("text", ["num-beams", "num-beams=", "num-beams=1,x", "=1"])
def test_a_growth_that_is_none_is_told(text, capsys):
    assert main(["benchmark", *TINY, "--growth", text]) == 2
    assert "--growth" in capsys.readouterr().err
