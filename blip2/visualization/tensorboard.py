"""TensorBoard for a run's losses, learning rates and scores."""

from importlib.util import find_spec

from mmengine.visualization import TensorboardVisBackend as MMTensorboardVisBackend

from blip2.registry import VISBACKENDS
from blip2.utils.errors import MissingPackageError


@VISBACKENDS.register_module()
class TensorboardVisBackend(MMTensorboardVisBackend):
    """mmengine's backend, which writes event files to ``<work folder>/<time>/vis_data``.

    In a config: ``visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])``.

    Raises `MissingPackageError` at once, not at the first scalar, when the package ``tensorboard`` is not installed.
    """

    def __init__(self, save_dir: str) -> None:
        if find_spec("tensorboard") is None:
            raise MissingPackageError(
                "vis_backends names TensorboardVisBackend, but the package tensorboard is not installed: "
                '`pip install "blip2[tensorboard]"`, or leave the backend out'
            )
        super().__init__(save_dir)
