"""Reading, fetching, loading and saving of weights."""

from blip2.checkpoints.read import CheckpointError, read_state_dict

__all__ = ["CheckpointError", "read_state_dict"]
