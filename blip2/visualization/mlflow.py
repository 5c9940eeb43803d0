"""MLflow for a run's losses, scores and drawn predictions."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.visualization import MLflowVisBackend as MMMLflowVisBackend
from numpy.typing import NDArray

from blip2.registry import VISBACKENDS
from blip2.utils.errors import MissingPackageError


@VISBACKENDS.register_module()
class MLflowVisBackend(MMMLflowVisBackend):
    """mmengine's backend with its arguments, on a current MLflow.

    Without a `tracking_uri` runs go to a database in ``<work folder>/<time>/vis_data`` (`mlflow ui --backend-store-uri
    sqlite:///…/mlflow.db` shows them): MLflow 3 refuses plain folders, which mmengine's default is. Pictures get a
    suffix and their step, for MLflow tells the format by the name and overwrites equal names.

    Raises `MissingPackageError` at once when the package ``mlflow`` is not installed.
    """

    def __init__(
        self,
        save_dir: str,
        exp_name: str | None = None,
        *args: Any,
        tracking_uri: str | None = None,
        artifact_location: str | None = None,
        **kwargs: Any,
    ) -> None:
        if find_spec("mlflow") is None:
            raise MissingPackageError(
                "vis_backends names MLflowVisBackend, but the package mlflow is not installed: `pip install mlflow`, "
                "or leave the backend out"
            )
        if tracking_uri is None:
            folder = Path(save_dir).resolve()
            tracking_uri = f"sqlite:///{folder / 'mlflow.db'}"
            # Of a name of its own: MLflow brings the experiment "Default", whose files go to the current folder.
            exp_name = exp_name or "blip2"
            artifact_location = artifact_location or (folder / "artifacts").as_uri()
        super().__init__(
            save_dir, exp_name, *args, tracking_uri=tracking_uri, artifact_location=artifact_location, **kwargs
        )

    def add_image(self, name: str, image: NDArray, step: int = 0, **kwargs: Any) -> None:
        """Keeps an RGB picture H×W×3 under its name and step."""
        super().add_image(f"{name}_{step}.png", image, step, **kwargs)
