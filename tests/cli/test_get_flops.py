import json

import pytest

from blip2.cli.get_flops import main

MODEL = "blip2-tiny_shapes-caption"


def test_the_table_has_a_line_a_part_and_the_sum(capsys):
    assert main([MODEL]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "picture 96×96, 8 tokens of text"
    assert lines[1].split()[:2] == ["part", "parameters"] and lines[-1].split()[:3] == ["all", "5.74", "M"]
    assert len(lines) == 8


def test_json_has_whole_numbers(capsys):
    assert main([MODEL, "--shape", "96", "--tokens", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["size"] == [96, 96] and found["tokens"] == 3
    assert found["parameters"] == sum(part["parameters"] for part in found["parts"])
    assert all(isinstance(part["flops"], int) for part in found["parts"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["blip2-tiny_shapes-captoin"], "Did you mean 'blip2-tiny_shapes-caption'"),
        (["blip2_tiny/blip2-tiny_vision_pretrain.py"], "no BLIP-2 model"),
    ],
)
def test_what_cannot_be_counted_is_told_without_a_trace(arguments, said, capsys):
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
