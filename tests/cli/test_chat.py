"""`blip2 chat`, with an answerer that says how red the picture is and how many words its prompt has."""

import contextlib
import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from blip2.apis import get_model
from blip2.cli.main import main

DATA = Path(__file__).parents[1] / "data"
CONFIG = str(DATA / "toy_answerer_config.py")


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
def picture(tmp_path) -> str:
    for number in (2, 77):
        Image.new("RGB", (5, 5), (number, 0, 0)).save(tmp_path / f"p{number}.png")
    return str(tmp_path / "p2.png")


@pytest.fixture
def talk(picture, toy, monkeypatch, capsys):
    """A function: the exit code, the lines of stdout and stderr of a conversation whose lines are piped in."""

    def run(lines: str | io.StringIO, *options: str) -> tuple[int, list[str], str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines) if isinstance(lines, str) else lines)
        code = main(["chat", picture, *toy, *options])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out.splitlines(), captured.err

    return run


def test_piped_questions_give_an_answer_a_line_in_the_light_of_the_earlier_ones(talk) -> None:
    # 3 words; then 'Question: red? Answer: 2 3.' (5) before 4; then 11 more before 3.
    assert talk("red?\n\nhow red?\nred?") == (0, ["2 3", "2 9", "2 14"], "")


def test_turns_limit_what_is_told(talk) -> None:
    assert talk("red?\nhow red?\nred?\n", "--turns", "0")[1] == ["2 3", "2 4", "2 3"]
    assert talk("red?\nhow red?\nred?\n", "--turns", "1")[1] == ["2 3", "2 9", "2 9"]


def test_commands_reset_change_the_picture_and_leave(talk, tmp_path) -> None:
    code, out, err = talk(f"red?\n/reset\nred?\n/image {tmp_path / 'p77.png'}\nred?\n/help\n/quit\nred?\n")
    assert (code, out) == (0, ["2 3", "2 3", "77 3"])
    assert all(command in err for command in ("/help", "/image PATH", "/reset", "/quit"))


def test_forgotten_turns_are_told(talk) -> None:
    code, out, err = talk("red?\n" * 5)
    # Of 24 positions 2 are for the queries and 1 is for the answer; a turn has 5 words, so 3 turns and a question fit.
    assert (code, out) == (0, ["2 3", "2 8", "2 13", "2 18", "2 18"])
    assert err.count("the oldest 1 turn(s) no longer fit") == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/image", "/image needs the path of a picture"),
        ("/image gone.png", "gone.png"),
        ("/rest", "no command '/rest'. Did you mean '/reset'?"),
        ("red? " * 30, "exceed the 24 positions"),
    ],
)
def test_line_that_cannot_be_done_is_told_and_the_conversation_goes_on(talk, line: str, said: str) -> None:
    code, out, err = talk(f"red?\n{line}\nred?\n")
    assert (code, out) == (1, ["2 3", "2 8"])
    assert said in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--turns", "-1"], "'-1' is not a whole number of 0 or more"),
        (["--prompt", "say"], "no {} to put a question in"),
        (["--model", "nowhere.py"], "'nowhere.py' not found"),
        (["--min-length", "2"], "'min_length'"),
        (["--json"], "unrecognized arguments"),
    ],
)
def test_wrong_option_is_named(talk, options: list[str], said: str) -> None:
    code, out, err = talk("red?\n", *options)
    assert (code, out) == (2, []) and said in err


@pytest.mark.parametrize("name", ["gone.png", "."])
def test_picture_that_is_none_is_named(toy, tmp_path, picture, capsys, name: str) -> None:
    path = str(tmp_path / name)
    assert main(["chat", path, *toy]) == 2
    assert ("about one picture" if name == "." else "gone.png") in capsys.readouterr().err


def start(picture: str, toy: list[str], **kwargs) -> subprocess.Popen:
    code = "import sys; from blip2.cli.main import main; sys.exit(main())"
    env = {**os.environ, "PYTHONPATH": str(DATA), "HF_HUB_OFFLINE": "1"}
    # A shell's background job ignores Ctrl-C, and so would its children.
    restored = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    command = [sys.executable, "-c", code, "chat", picture, *toy]
    return subprocess.Popen(command, env=env, preexec_fn=restored, start_new_session=True, **kwargs)


class Pty:
    """Our side of a terminal."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        self.unread = b""

    def expect(self, text: bytes, seconds: float = 60) -> bytes:
        """What came up to `text`, that included."""
        end = time.monotonic() + seconds
        while text not in self.unread:
            ready, _, _ = select.select([self.ours], [], [], max(0, end - time.monotonic()))
            assert ready, f"{text!r} did not come, only {self.unread!r}"
            self.unread += os.read(self.ours, 4096)
        seen, _, self.unread = self.unread.partition(text)
        return seen + text

    def rest(self) -> bytes:
        """What came until the other side was closed."""
        try:
            while chunk := os.read(self.ours, 4096):
                self.unread += chunk
        except OSError:  # Linux's way to say that the other side is closed
            pass
        os.close(self.ours)
        return self.unread


def interrupted(process: subprocess.Popen) -> int:
    """The exit status after Ctrl-C, again if need be: readline misses one that comes just before it waits."""
    for _ in range(4):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=20)  # long enough for a busy machine: a second one would disturb the ending
    raise AssertionError("the conversation goes on in spite of Ctrl-C")


def test_terminal_has_a_prompt_and_an_interrupt_ends_cleanly(picture, toy) -> None:
    terminal = Pty()
    process = start(picture, toy, stdin=terminal.theirs, stdout=terminal.theirs, stderr=terminal.theirs)
    os.close(terminal.theirs)
    try:
        assert b"/help" in terminal.expect(b"> ")
        os.write(terminal.ours, b"red?\n")
        terminal.expect(b"2 3\r\n")
        terminal.expect(b"> ")
        assert interrupted(process) == 130
    finally:
        process.kill()
    rest = terminal.rest()
    assert b"interrupted" in rest and b"Traceback" not in rest


def test_end_of_input_at_a_terminal_ends_well(talk, monkeypatch) -> None:
    lines = iter(["red?", " ", "how red?"])

    def typed(prompt: str) -> str:
        assert prompt == "> "
        if (line := next(lines, None)) is None:
            raise EOFError
        return line

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("builtins.input", typed)
    code, out, err = talk(Terminal())
    assert (code, out) == (0, ["2 3", "2 9", ""]), "the shell's prompt stands on a line of its own"
    assert "/quit" in err


def test_stray_bytes_in_a_pipe_do_not_end_the_conversation(picture, toy, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"r\xff\xfed?\nred?\n"), encoding="utf-8"))
    assert main(["chat", picture, *toy]) == 0
    assert capsys.readouterr().out.splitlines() == ["2 3", "2 8"]
