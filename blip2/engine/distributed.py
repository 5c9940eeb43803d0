"""Several processes, on GPUs or on a CPU alone."""

import os
import socket
import subprocess

import torch
from mmengine.dist import is_distributed

from blip2.engine.errors import OptionError

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")


def detect_launcher() -> str:
    """``'pytorch'`` under ``torchrun``, else ``'none'``; Slurm and MPI have to be named."""
    return "pytorch" if "TORCHELASTIC_RUN_ID" in os.environ else "none"


def init_on_cpu(launcher: str) -> None:
    """Joins the processes through gloo. mmengine's own start would ask for a GPU.

    Raises `OptionError` when the launcher's environment variables are not there.
    """
    if is_distributed():
        return
    if launcher == "slurm":
        _set_from("slurm", RANK="SLURM_PROCID", LOCAL_RANK="SLURM_LOCALID", WORLD_SIZE="SLURM_NTASKS")
        os.environ.setdefault("MASTER_ADDR", _first_slurm_host())
    elif launcher == "mpi":
        _set_from(
            "mpi",
            RANK="OMPI_COMM_WORLD_RANK",
            LOCAL_RANK="OMPI_COMM_WORLD_LOCAL_RANK",
            WORLD_SIZE="OMPI_COMM_WORLD_SIZE",
        )
        os.environ.setdefault("MASTER_ADDR", socket.gethostname())
    elif launcher == "pytorch":
        missing = [name for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if name not in os.environ]
        if missing:
            raise OptionError(
                f"launcher 'pytorch': {', '.join(missing)} not set; start with torchrun --nproc_per_node N"
            )
    os.environ.setdefault("MASTER_PORT", "29500")
    torch.distributed.init_process_group("gloo")


def _set_from(launcher: str, **sources: str) -> None:
    for name, source in sources.items():
        if source not in os.environ:
            raise OptionError(
                f"launcher {launcher!r}: the environment variable {source} is not set; start through {launcher}"
            )
        os.environ[name] = os.environ[source]


def _first_slurm_host() -> str:
    listed = subprocess.run(
        ["scontrol", "show", "hostname", os.environ.get("SLURM_NODELIST", "")],
        capture_output=True,
        text=True,
        check=True,
    )
    return listed.stdout.split()[0]
