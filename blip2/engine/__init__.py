"""Loops, hooks, optimizer wrappers and the runner; importing this registers them."""

from . import hooks, loops, optim_constructors, optim_wrappers
from .runner import Blip2Runner

__all__ = ["Blip2Runner", "hooks", "loops", "optim_constructors", "optim_wrappers"]
