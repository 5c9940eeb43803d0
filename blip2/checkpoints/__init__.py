"""Fetching, reading, loading and saving of weights."""

from blip2.checkpoints.fetch import cache_dir, fetch, is_offline
from blip2.checkpoints.load import LoadResult, is_complete_with_weights, load_checkpoint
from blip2.checkpoints.read import CheckpointError, read_state_dict
from blip2.checkpoints.save import drop_frozen_language_model, keys_to_save, save_checkpoint, saves_language_model
from blip2.checkpoints.source import Source, open_checkpoint

__all__ = [
    "CheckpointError",
    "LoadResult",
    "Source",
    "cache_dir",
    "drop_frozen_language_model",
    "fetch",
    "is_complete_with_weights",
    "is_offline",
    "keys_to_save",
    "load_checkpoint",
    "open_checkpoint",
    "read_state_dict",
    "save_checkpoint",
    "saves_language_model",
]
