from .data_sample import DataSample
from .scene import Scene, SceneObject

__all__ = ["DataSample", "Scene", "SceneObject"]
