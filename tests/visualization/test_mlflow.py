"""What MLflow is asked to do; MLflow itself is heavy and no extra of this package, so a stand-in listens."""

import importlib.machinery
import sys
import types

import numpy as np
import pytest
from mmengine.registry import DefaultScope

from blip2.structures import DataSample
from blip2.utils.errors import MissingPackageError
from blip2.visualization import UniversalVisualizer


@pytest.fixture(autouse=True)
def _scope():
    """As in a run of this package."""
    with DefaultScope.overwrite_default_scope("blip2"):
        yield


@pytest.fixture
def asked(monkeypatch):
    calls = []
    stand_in = types.ModuleType("mlflow")
    stand_in.__spec__ = importlib.machinery.ModuleSpec("mlflow", None)
    for name in ("set_tracking_uri", "create_experiment", "set_experiment", "log_image", "log_metric", "end_run"):
        setattr(stand_in, name, lambda *args, _name=name, **kwargs: calls.append((_name, args, kwargs)))
    stand_in.get_experiment_by_name = lambda name: None
    monkeypatch.setitem(sys.modules, "mlflow", stand_in)
    return calls


def test_pictures_are_kept_as_png_under_their_step_and_runs_in_a_database(asked, tmp_path):
    visualizer = UniversalVisualizer(
        vis_backends=[dict(type="MLflowVisBackend")], save_dir=str(tmp_path), name="of_this_test"
    )
    picture = np.full((40, 60, 3), 200, np.uint8)
    visualizer.visualize_image_caption(picture, DataSample(pred_caption="a star"), name="one", step=3)
    said = {name: args for name, args, _ in asked}
    folder = tmp_path / "vis_data"
    assert said["set_tracking_uri"] == (f"sqlite:///{folder / 'mlflow.db'}",)
    created = next((args, kwargs) for name, args, kwargs in asked if name == "create_experiment")
    assert created == (("blip2",), {"artifact_location": (folder / "artifacts").as_uri()})
    image, name = said["log_image"]
    assert name == "one_3.png" and image.shape[2] == 3


def test_a_missing_package_is_said_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr("blip2.visualization.mlflow.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="pip install mlflow"):
        UniversalVisualizer(vis_backends=[dict(type="MLflowVisBackend")], save_dir=str(tmp_path), name="without")
