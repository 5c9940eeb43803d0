"""The dispatcher of the `blip2` command."""

import subprocess
import sys
import time

import pytest

import blip2
from blip2.cli import main as cli


def in_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def heavy_modules_after(statement: str) -> set[str]:
    heavy = ("torch", "transformers", "timm", "mmengine.runner", "mmengine", "cv2", "numpy", "PIL", "rich")
    code = f"import sys\n{statement}\nprint([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(eval(done.stderr.splitlines()[-1]))


def test_help_names_every_command_and_ends_well(capsys) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in cli.COMMANDS)
    assert "examples:" in out


def test_version_is_the_packages(capsys) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"blip2 {blip2.__version__}\n"


def test_no_command_shows_help_as_wrong_usage(capsys) -> None:
    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "usage: blip2" in captured.err


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("captoin", "Did you mean 'caption'"),
        ("tset", "Did you mean 'test'"),
        ("xyzzy", ", ".join(cli.COMMANDS)),
        ("--json", "a command comes first"),
    ],
)
def test_unknown_command_is_named_with_the_nearest(argument: str, said: str, capsys) -> None:
    assert cli.main([argument]) == 2
    err = capsys.readouterr().err
    assert repr(argument) in err and said in err


def test_path_in_the_place_of_a_command_is_recognised(tmp_path, capsys) -> None:
    picture = tmp_path / "0.png"
    picture.touch()
    assert cli.main([str(picture)]) == 2
    assert f"blip2 caption {picture}" in capsys.readouterr().err


def fake_command(monkeypatch, behaviour) -> None:
    module = type(sys)("fake_command")
    module.main = behaviour
    monkeypatch.setitem(sys.modules, "fake_command", module)
    monkeypatch.setitem(cli.COMMANDS, "fake", ("fake_command", "for this test"))


def test_command_gets_the_rest_of_the_line_and_gives_the_exit_code(monkeypatch) -> None:
    seen = []
    fake_command(monkeypatch, lambda argv: seen.append(argv) or 7)
    assert cli.main(["fake", "a", "--b", "--help"]) == 7
    assert seen == [["a", "--b", "--help"]]


def raises(error: BaseException):
    def command(argv: list[str]) -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (SystemExit(2), 2), (SystemExit(None), 0), (SystemExit("gone wrong"), 1)],
)
def test_interrupts_and_exits_become_exit_codes(monkeypatch, capsys, error: BaseException, code: int) -> None:
    fake_command(monkeypatch, raises(error))
    assert cli.main(["fake"]) == code
    err = capsys.readouterr().err
    assert "Traceback" not in err
    if code == 130:
        assert "interrupted" in err


def test_closed_pipe_ends_quietly() -> None:
    code = (
        "import sys, types\n"
        "from blip2.cli import main as cli\n"
        "m = types.ModuleType('m'); m.main = lambda argv: [print('line ' * 99) for _ in range(9999)] and 0\n"
        "sys.modules['m'] = m; cli.COMMANDS['m'] = ('m', '')\n"
        "sys.exit(cli.main(['m']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(timeout=60) == 141
    assert err == b""


def test_help_imports_nothing_heavy() -> None:
    assert heavy_modules_after("from blip2.cli.main import main; main(['--help'])") == set()


@pytest.mark.parametrize("command", ["caption", "vqa", "chat"])
def test_help_of_a_command_imports_no_torch(command: str) -> None:
    assert "torch" not in heavy_modules_after(f"from blip2.cli.main import main; main([{command!r}, '--help'])")


def test_import_of_the_package_is_light() -> None:
    assert heavy_modules_after("import blip2; blip2.__version__; dir(blip2)") == set()


def test_api_import_leaves_timm_and_the_runner_alone() -> None:
    assert heavy_modules_after("import blip2; blip2.ImageCaptionInferencer").isdisjoint({"timm", "mmengine.runner"})


def test_help_answers_at_once() -> None:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "blip2.cli.main", "--help"], capture_output=True, check=True)
    # 0.05 s where this was measured; an import of torch alone takes over a second.
    assert time.perf_counter() - start < 1.0
