from .checkpoint import CheckpointHook
from .load_parts import LoadParts, load_part
from .plain_checkpoint import PlainCheckpoint
from .progress import ProgressHook
from .visualization import VisualizationHook

__all__ = ["CheckpointHook", "LoadParts", "PlainCheckpoint", "ProgressHook", "VisualizationHook", "load_part"]
