#!/usr/bin/env python
"""Builds the wheel through the sdist, installs it into an environment of its own and uses it from an empty folder.

    python .ci/smoke_wheel.py

The new environment borrows the dependencies of the one that runs this, so that torch is not installed twice; the
repository itself is out of its sight.
"""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

LOAD_ALL = """
from pathlib import Path
import blip2
from blip2.utils.resources import resources_root
package = Path(blip2.__file__).resolve().parent
assert str(package).startswith({environment!r}), package
assert resources_root() == package / ".mim"
for name in blip2.list_models():
    config = blip2.load_config(name)
    assert Path(config.filename).is_relative_to(package), config.filename
    print(name, config.filename)
"""
FEW_SCENES = ["--train", "0", "--documents", "0", "--val", "0", "--held-out", "0", "--test", "20"]
INFERENCE = """
from blip2 import inference_model
from blip2.utils.resources import resources_root
picture = sorted((resources_root() / "demo").glob("*.png"))[0]
print(inference_model("blip2-tiny_shapes-caption", picture)["pred_caption"])
"""


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """The command's output; shows both and stops when the command fails."""
    print("$", " ".join(str(part) for part in command), flush=True)
    done = subprocess.run(command, cwd=cwd, env=env, stdout=subprocess.PIPE, text=True)
    print(done.stdout if done.returncode else done.stdout[:500], end="", flush=True)
    if done.returncode:
        sys.exit(f"smoke_wheel: exit code {done.returncode} of: {' '.join(str(part) for part in command)}")
    return done.stdout


def install(folder: Path) -> Path:
    """A new environment in `folder` with the freshly built wheel; gives its folder of executables."""
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", ROOT, cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    executables = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    run(sys.executable, "-m", "pip", "--python", executables / "python", "install", "--no-deps", wheel, cwd=folder)
    # A path in a .pth file is searched, but the .pth files there (the editable install of the repository) are not read.
    (site,) = (folder / "venv").rglob("site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return executables


def use(executables: Path, folder: Path) -> None:
    """What a user does first, in `folder`; stops at the first thing that goes wrong."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= {"HF_HUB_OFFLINE": "1"}
    python, blip2 = executables / "python", executables / "blip2"
    environment = str(executables.parent.resolve())

    version = run(blip2, "--version", cwd=folder, env=env).split()[-1]
    listed = [entry["name"] for entry in json.loads(run(blip2, "list", "--json", cwd=folder, env=env))]
    loaded = run(python, "-c", LOAD_ALL.format(environment=environment), cwd=folder, env=env)
    assert version and listed == [line.split()[0] for line in loaded.splitlines()], (version, listed, loaded)

    captions = json.loads(run(blip2, "caption", "demo", "--json", cwd=folder, env=env))
    assert captions and all(entry["caption"] for entry in captions), captions
    assert len(captions) == len([path for path in (ROOT / "demo").iterdir() if path.suffix in (".png", ".jpg")])
    assert run(python, "-c", INFERENCE, cwd=folder, env=env).strip()

    tools = Path(loaded.splitlines()[0].split()[1].partition("configs")[0]) / "tools"
    run(python, tools / "train.py", "--help", cwd=folder, env=env)
    run(blip2, "scenes", "data/scenes", *FEW_SCENES, cwd=folder, env=env)
    run(python, tools / "test.py", "blip2-tiny_shapes-caption", "--out", "scores.json", cwd=folder, env=env)
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert scores["CIDEr"] > 0, scores


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        elsewhere = work / "elsewhere"
        elsewhere.mkdir()
        use(install(work), elsewhere)
    print("smoke_wheel: fine")
