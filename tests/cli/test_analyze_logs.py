import json

import pytest

from blip2.cli.analyze_logs import main


@pytest.fixture
def folder(tmp_path):
    file = tmp_path / "mine" / "20260101_000000" / "vis_data" / "scalars.json"
    file.parent.mkdir(parents=True)
    rows = [{"lr": 0.1, "loss": 3.0 - n, "time": 0.1 * n, "iter": n, "step": n} for n in (1, 2, 3)]
    file.write_text("\n".join(map(json.dumps, [*rows, {"CIDEr": 0.5, "step": 3}])) + "\n")
    return tmp_path / "mine"


def test_curves_are_drawn_of_losses_rate_and_scores(folder, tmp_path, capsys):
    out = tmp_path / "curves.svg"
    assert main(["plot", str(folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    text = out.read_text()
    assert all(f"<!-- {name} -->" in text for name in ("lr", "loss", "CIDEr"))


def test_times_are_told(folder, capsys):
    assert main(["time", str(folder)]) == 0
    numbers = capsys.readouterr().out.splitlines()[1].split()
    assert numbers == ["mine", "0.200", "0.200", "0.110", "0.290", "3"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--keys", "los"], "Did you mean 'loss'"),
        (["--legend", "a", "b"], "--legend has 2 names for 1 logs"),
        (["--out", "curves.txt"], "must end in .png"),
    ],
)
def test_wrong_options_are_told(folder, arguments, said, capsys):
    assert main(["plot", str(folder), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_scalars_is_told(tmp_path, capsys):
    assert main(["time", str(tmp_path)]) == 2
    assert "holds no scalars" in capsys.readouterr().err
