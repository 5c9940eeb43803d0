"""``blip2 benchmark`` and tools/analysis_tools/benchmark.py."""

import json
import subprocess
import sys

import pytest

from blip2.benchmark import cold_start, transformers_peer
from blip2.cli.main import main
from blip2.utils.resources import resources_root

TINY = ["--preset", "tiny", "--repeats", "1", "--warmup", "0"]


def test_tool_prints_a_table_and_writes_json(tmp_path):
    tool = resources_root() / "tools" / "analysis_tools" / "benchmark.py"
    command = [sys.executable, str(tool), *TINY, "--num-beams", "2", "--max-new-tokens", "3", "--json", "speed.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "whole pipeline" in done.stdout
    work = json.loads((tmp_path / "speed.json").read_text())["work"]
    assert (work["num_beams"], work["max_new_tokens"], work["batch_size"]) == (2, 3, 2)


def test_a_config_of_the_zoo_can_be_timed(capsys):
    options = ["--batch-size", "1", "--num-beams", "2", "--max-new-tokens", "2", "--repeats", "1", "--warmup", "0"]
    assert main(["benchmark", "--config", "blip2_tiny/blip2-tiny_shapes-caption.py", *options]) == 0
    assert "same token ids as transformers: 1 of 1 at fp32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "options", "said"),
    [
        # The question goes to this one's Q-Former too.
        ("shapes-vqa", ["--task", "vqa", "--questions", "2", "--max-new-tokens", "2"], "repeated: 4 of 4 at fp32"),
        ("shapes-retrieval", ["--task", "retrieval", "--texts", "5", "--topk", "2"], "repeated: 7 of 7 at fp32"),
    ],
)
def test_other_tasks_of_the_zoo_can_be_timed(config, options, said, capsys):
    common = ["--batch-size", "2", "--repeats", "1", "--warmup", "0"]
    assert main(["benchmark", "--config", f"blip2_tiny/blip2-tiny_{config}.py", *options, *common]) == 0
    assert said in capsys.readouterr().out


def test_different_answers_end_in_exit_code_1(monkeypatch, capsys):
    convert = transformers_peer.convert_state_dict

    def wrong(state):
        return {key: value.flip(0) if "fc1" in key else value for key, value in convert(state).items()}

    monkeypatch.setattr(transformers_peer, "convert_state_dict", wrong)
    assert main(["benchmark", *TINY, "--batch-size", "4"]) == 1
    assert "VOID" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--preset", "mdi"], "Did you mean 'mid'"),
        (["--preset", "tiny", "--num-beams", "0"], "not a whole number of 1 or more"),
        (["--preset", "tiny", "--config", "x.py"], "not allowed with"),
        (["--config", "no_such_config.py"], "not found"),
        (["--preset", "tiny", "--device", "cud"], "is no device"),
        (["--preset", "tiny", "--peer", "transformer"], "Did you mean 'transformers'"),
        (["--task", "retrieval", "--preset", "tiny", "--peer", "transformers"], "Peers: repeated, padded"),
        (["--task", "retrieval", "--preset", "tiny", "--num-beams", "2"], "--num-beams means nothing"),
        (["--preset", "tiny", "--questions", "2"], "--questions means nothing for --task caption"),
        (["--task", "vqa", "--cold-start"], "goes not with --task vqa"),
        (["--task", "vqa", "--config", "blip2_tiny/blip2-tiny_shapes-caption.py"], "not Blip2Caption"),
        (["--preset", "tiny", "--json", "no/such/folder/speed.json"], "there is no folder"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_says_what_is_wrong(options, said, capsys):
    assert main(["benchmark", *options]) == 2
    assert said in capsys.readouterr().err


def fake_start(tmp_path, monkeypatch, code: str) -> None:
    """A program in the place of Python."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{code}\n")
    program.chmod(0o755)
    monkeypatch.setattr(cold_start.sys, "executable", str(program))


def test_cold_start_is_timed_to_the_first_line_not_to_the_end(tmp_path, monkeypatch, capsys):
    fake_start(tmp_path, monkeypatch, 'sleep 0.2; echo \'{"pred_caption": "x"}\'; sleep 1')
    monkeypatch.setattr(cold_start, "find_pictures", lambda folder: [tmp_path / "scene.png"])
    target = tmp_path / "start.json"
    assert main(["benchmark", "--cold-start", "--repeats", "2", "--json", str(target)]) == 0
    found = json.loads(target.read_text())["cold_start"]
    assert all(0.2 <= value < 1 for value in found["seconds"]["values"]) and found["met"]
    assert "target 10 s: met" in capsys.readouterr().out


def test_a_failing_cold_start_shows_the_commands_own_words(tmp_path, monkeypatch, capsys):
    fake_start(tmp_path, monkeypatch, "echo 'no weights here' >&2; exit 2")
    monkeypatch.setattr(cold_start, "find_pictures", lambda folder: [tmp_path / "scene.png"])
    assert main(["benchmark", "--cold-start", "--repeats", "2"]) == 1
    captured = capsys.readouterr()
    assert "no weights here" in captured.out + captured.err
