"""`blip2 caption`, with a captioner that says the picture's mean colour."""

import json
import os
import pty
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from blip2.apis import get_model
from blip2.cli import caption as command
from blip2.cli.main import main

DATA = Path(__file__).parents[1] / "data"
CONFIG = str(DATA / "toy_captioner_config.py")


@pytest.fixture(autouse=True)
def toy_is_importable(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(DATA))


@pytest.fixture
def toy(tmp_path) -> list[str]:
    """The options that choose the toy model and its weights."""
    weights = tmp_path / "weights.pth"
    torch.save(get_model(CONFIG).state_dict(), weights)
    return ["--model", CONFIG, "--checkpoint", str(weights), "--device", "cpu"]


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder with ten.png … in an order that only natural sorting gets right, and what is no picture."""
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    for number in (1, 2, 10):
        Image.new("RGB", (5, 5), (number, 0, 0)).save(folder / f"p{number}.png")
    Image.new("RGB", (5, 5), (77, 0, 0)).save(folder / "deeper" / "p3.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def corrupt(folder: Path, name: str = "p5.png") -> Path:
    path = folder / name
    path.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return path


def test_folder_gives_a_line_a_picture_in_natural_order(pictures, toy, capsys) -> None:
    assert main(["caption", str(pictures), *toy]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [f"{pictures}/p{n}.png: {n} 0 0" for n in (1, 2, 10)]
    assert captured.err == ""


def test_recursive_looks_into_subfolders(pictures, toy, capsys) -> None:
    assert main(["caption", str(pictures), "-r", *toy]) == 0
    assert f"{pictures}/deeper/p3.png: 77 0 0" in capsys.readouterr().out


def test_files_and_folders_mix_in_the_given_order(pictures, toy, capsys) -> None:
    paths = [str(pictures / "p10.png"), str(pictures / "deeper"), str(pictures / "p1.png")]
    assert main(["caption", *paths, *toy]) == 0
    assert [line.rpartition(" ")[0].split("/")[-1] for line in capsys.readouterr().out.splitlines()] == [
        "p10.png: 10 0",
        "p3.png: 77 0",
        "p1.png: 1 0",
    ]


def test_json_is_one_list_of_path_caption_and_score(pictures, toy, capsys) -> None:
    assert main(["caption", str(pictures), "--json", "--batch-size", "2", *toy]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert entries[2] == {"path": f"{pictures}/p10.png", "caption": "10 0 0", "score": -0.5}
    assert len(entries) == 3


def test_json_lines_are_one_object_a_line(pictures, toy, capsys) -> None:
    assert main(["caption", str(pictures), "--jsonl", *toy]) == 0
    assert [json.loads(line)["caption"] for line in capsys.readouterr().out.splitlines()] == [
        "1 0 0",
        "2 0 0",
        "10 0 0",
    ]


@pytest.mark.parametrize("name", ["out.json", "new/folder/out.jsonl", "out.txt"])
def test_out_chooses_the_form_by_its_suffix(pictures, toy, tmp_path, capsys, name: str) -> None:
    out = tmp_path / name
    assert main(["caption", str(pictures), "--out", str(out), *toy]) == 0
    assert capsys.readouterr().out == ""
    text = out.read_text(encoding="utf-8")
    if name.endswith(".json"):
        assert len(json.loads(text)) == 3
    elif name.endswith(".jsonl"):
        assert json.loads(text.splitlines()[0])["caption"] == "1 0 0"
    else:
        assert text.splitlines()[0].endswith("p1.png: 1 0 0")


def test_generation_options_reach_the_model(pictures, toy, capsys) -> None:
    assert main(["caption", str(pictures / "p1.png"), "--prompt", "über ", "--num-captions", "2", *toy]) == 0
    assert [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()] == ["über 1 0 0", "über 1 0 0 again"]


def test_show_dir_gets_the_drawn_pictures(pictures, toy, tmp_path) -> None:
    assert main(["caption", str(pictures), "--show-dir", str(tmp_path / "drawn"), *toy]) == 0
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["p1.png", "p10.png", "p2.png"]


@pytest.mark.parametrize("form", ["--json", "--jsonl", None])
def test_bad_pictures_are_named_at_the_end_and_the_others_captioned(pictures, toy, capsys, form) -> None:
    bad = corrupt(pictures)
    missing = str(pictures / "gone.png")
    assert main(["caption", missing, str(pictures), *toy, *([form] if form else [])]) == 1
    captured = capsys.readouterr()
    assert "2 picture(s) failed" in captured.err
    assert f"{missing}: no such file or folder" in captured.err and str(bad) in captured.err
    assert captured.err.count(str(bad)) == 1, "named once"
    if form == "--json":
        entries = json.loads(captured.out)
        assert [entry["caption"] for entry in entries] == [None, "1 0 0", "2 0 0", None, "10 0 0"]
        assert ["error" in entry for entry in entries] == [True, False, False, True, False]
    elif form is None:
        assert [line.rpartition(": ")[2] for line in captured.out.splitlines()] == ["1 0 0", "2 0 0", "10 0 0"]


def usage_error(arguments: list[str], capsys) -> str:
    assert main(["caption", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err


def test_nothing_to_caption_is_wrong_usage(tmp_path, capsys) -> None:
    assert "no picture to caption" in usage_error([str(tmp_path / "gone.png")], capsys)
    assert "required: PATH" in usage_error([], capsys)


def test_folder_without_pictures_names_the_known_suffixes(pictures, tmp_path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    err = usage_error([str(pictures), str(tmp_path / "empty")], capsys)
    assert "no picture in the folder" in err and ".jpg" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch-size", "0"], "'0' is not a whole number of 1 or more"),
        (["--num-beams", "two"], "'two' is not a whole number"),
        (["--precision", "int8"], "'fp32', 'bf16', 'fp16'"),
        (["--json", "--jsonl"], "not allowed with"),
        (["--jsno"], "unrecognized arguments: --jsno"),
        (["--device", "gpu"], "'gpu' is no device"),
        (["--model", "blip2-opt2.7b_captoin"], "blip2-opt2.7b"),
        (["--model", "nowhere.py"], "'nowhere.py' not found"),
        (["--model", CONFIG], "--checkpoint FILE"),
        (["--model", CONFIG, "--checkpoint", "gone.pth"], "gone.pth"),
        (["--out", "/proc/nothing/out.txt"], "/proc/nothing"),
    ],
)
def test_wrong_option_is_named(pictures, toy, capsys, options: list[str], said: str) -> None:
    chosen = options if "--model" in options else [*toy, *options]
    assert said in usage_error([str(pictures), *chosen], capsys)


def test_default_model_comes_with_a_word_about_what_it_knows(pictures, monkeypatch, capsys) -> None:
    def stop(*args, **kwargs):
        raise ValueError("stopped here")

    monkeypatch.setattr("blip2.apis.inferencers.ImageCaptionInferencer", stop)
    err = usage_error([str(pictures)], capsys)
    first, second = err.splitlines()
    assert command.DEFAULT_MODEL in first and "drawn scenes only" in first and command.PUBLISHED_MODEL in first
    assert "stopped here" in second


@pytest.mark.parametrize("form", ["--json", "--jsonl"])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("num_captions=9 is more than num_beams=5"), "num_captions=9"),
        (FileNotFoundError("the tokenizer 'x' is no folder here"), "the tokenizer 'x'"),
        (torch.OutOfMemoryError("CUDA out of memory"), "smaller --batch-size"),
    ],
)
def test_error_of_the_model_itself_ends_with_its_text(pictures, toy, monkeypatch, capsys, form, error, said) -> None:
    def fail(self, *args, **kwargs):
        raise error

    monkeypatch.setattr("blip2.apis.inferencers.ImageCaptionInferencer.forward", fail)
    assert said in usage_error([str(pictures), form, *toy], capsys)


def test_demo_of_the_installed_package_is_found_from_anywhere(pictures, toy, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "demo").symlink_to(pictures)
    monkeypatch.setattr("blip2.utils.resources.resources_root", lambda: tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["caption", "demo/p2.png", *toy]) == 0
    assert capsys.readouterr().out.endswith("p2.png: 2 0 0\n")


def run(arguments: list[str], **kwargs) -> subprocess.Popen:
    code = "import sys; from blip2.cli.main import main; sys.exit(main())"
    env = {**os.environ, "PYTHONPATH": str(DATA), "HF_HUB_OFFLINE": "1"}
    # A shell's background job ignores Ctrl-C, and so would its children.
    restored = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    command = [sys.executable, "-c", code, "caption", *arguments]
    return subprocess.Popen(command, env=env, text=True, preexec_fn=restored, **kwargs)


def test_interrupt_ends_cleanly_and_leaves_what_was_done(pictures, toy) -> None:
    many = [str(pictures / "p1.png")] * 10_000
    process = run([*many, "--batch-size", "1", *toy], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert first.endswith("p1.png: 1 0 0\n")
    assert process.returncode == 130
    assert "interrupted" in err and "Traceback" not in err
    assert len(out.splitlines()) < len(many) - 1


def test_interrupted_json_holds_the_captions_made_so_far(pictures, toy, tmp_path, monkeypatch) -> None:
    from blip2.apis.inferencers import ImageCaptionInferencer

    whole = ImageCaptionInferencer.stream

    def interrupted(self, *args, **kwargs):
        yield next(whole(self, *args, **kwargs))
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageCaptionInferencer, "stream", interrupted)
    out = tmp_path / "out.json"
    assert main(["caption", str(pictures), "--out", str(out), *toy]) == 130
    assert [entry["caption"] for entry in json.loads(out.read_text())] == ["1 0 0"]


def test_progress_goes_to_a_terminal_and_captions_stay_clean(pictures, toy) -> None:
    ours, theirs = pty.openpty()
    process = run([str(pictures), *toy], stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # Linux's way to say that the other side is closed
            break
        if not chunk:
            break
        shown += chunk
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    assert out.splitlines() == [f"{pictures}/p{n}.png: {n} 0 0" for n in (1, 2, 10)]
    assert b"captioning" in shown and b"0/3" in shown


def test_reader_that_goes_early_ends_the_command_quietly(pictures, toy) -> None:
    process = run([str(pictures / "p1.png")] * 2 + [str(pictures)] * 40 + toy, stdout=subprocess.PIPE, stderr=-1)
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 141
    assert err == ""
