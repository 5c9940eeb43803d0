import json

import pytest
from PIL import Image

from blip2.visualization.training_log import TrainingLogError, draw_curves, read_training_log, smoothed


def write(folder, run, *records, end="\n"):
    file = folder / run / "vis_data" / "scalars.json"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(json.dumps(record) for record in records) + end)
    return file


def step(number, loss, **more):
    return {"lr": 0.1, "loss": loss, "time": 0.5, "iter": number, "step": number, **more}


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "20260101_000000", step(10, 3.0), step(20, 2.0), {"CIDEr": 0.5, "time": 9.0, "step": 20})
    write(tmp_path, "20260102_000000", step(20, 1.5, time=0.7), step(30, 1.0), {"CIDEr": 0.8, "step": 30})
    return tmp_path


def test_runs_are_joined_and_the_later_one_counts(folder):
    log = read_training_log(folder)
    assert log.curve("loss") == ([10, 20, 30], [3.0, 1.5, 1.0])
    assert log.curve("CIDEr") == ([20, 30], [0.5, 0.8])
    assert log.seconds() == [0.5, 0.7, 0.5]  # those of training
    assert log.names() == ["lr", "loss", "CIDEr"]


def test_one_run_alone(folder):
    log = read_training_log(folder / "20260101_000000" / "vis_data" / "scalars.json")
    assert log.curve("loss") == ([10, 20], [3.0, 2.0])


def test_a_line_that_was_cut_off_is_left_out_and_told(tmp_path):
    file = write(tmp_path, "run", step(1, 2.0), step(2, 1.0), end='\n{"lr": 0.1, "lo')
    log = read_training_log(tmp_path)
    assert log.curve("loss") == ([1, 2], [2.0, 1.0]) and log.cut_off == [file]
    file.write_text('{"lr": 0.1, "lo\n' + json.dumps(step(3, 1.0)))
    with pytest.raises(TrainingLogError, match="line 1 is not JSON"):
        read_training_log(tmp_path)


def test_what_holds_no_scalars_is_told(tmp_path):
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(TrainingLogError, match="holds no scalars: give a work folder"):
            read_training_log(path)
    write(tmp_path, "run", {"epoch": 1, "step": 3})
    with pytest.raises(TrainingLogError, match="holds no scalars yet"):
        read_training_log(tmp_path)


def test_an_unknown_name_is_told_with_the_nearest(folder):
    for name in ("los", "time"):
        with pytest.raises(TrainingLogError, match=r"It has: lr, loss, CIDEr\."):
            read_training_log(folder).curve(name)
    with pytest.raises(TrainingLogError, match="Did you mean 'loss'"):
        draw_curves([read_training_log(folder)], ["los"], folder / "curves.png")


def test_smoothing_is_the_median_of_a_window():
    values = [1.0, 9.0, 2.0, 3.0, 4.0]
    assert smoothed(values, 1) == values
    assert smoothed(values, 3) == [5.0, 2.0, 3.0, 3.0, 3.5]


def test_all_curves_are_on_one_picture(folder):
    log = read_training_log(folder)
    draw_curves([log, log], ["loss", "lr", "CIDEr", "loss"], folder / "curves.png", legend=["a", "b"], smooth=2)
    with Image.open(folder / "curves.png") as picture:
        assert picture.size == (1800, 816)  # two rows of three
