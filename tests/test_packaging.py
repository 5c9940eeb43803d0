"""pyproject.toml and what is built from it: dependencies, sdist, wheel."""

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

import blip2

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RESOURCES = ("configs", "tools", "demo")
# Imported where a user asks for them; the error that names them says how to install them.
ON_DEMAND = {"accelerate", "simplemma", "spacy"}
# Imported in interpreters of their own only, which a user names.
PEERS = {"mmpretrain", "lavis"}
# Used without an import: a plugin, the backend of `python -m build`, which a subprocess here imports, what the package
# imports on demand, and what runs notebooks.
NOT_IMPORTED = {"pytest-timeout", "hatchling", "accelerate", "ipykernel"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required(requirements: Iterable[str]) -> set[str]:
    return {normal(re.match(r"[\w.-]+", line)[0]) for line in requirements}  # type: ignore[index]


def imported(*folders: str) -> set[str]:
    """The top-level packages that the Python files below `folders` import, without the standard library's."""
    found: set[str] = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py") if ".mim" not in path.parts):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"blip2"}


def distributions(packages: set[str]) -> dict[str, set[str]]:
    """For each imported package the distributions that bring it."""
    installed = packages_distributions()
    return {name: {normal(item) for item in installed.get(name, [name])} for name in packages}


DEPENDENCIES = required(PROJECT["dependencies"])
EXTRAS = {name: required(lines) - {"blip2"} for name, lines in PROJECT["optional-dependencies"].items()}


def test_every_import_of_the_package_is_declared():
    declared = DEPENDENCIES | EXTRAS["mmcv-lite"] | EXTRAS["demo"] | {"mmcv"} | ON_DEMAND | PEERS
    missing = {name for name, homes in distributions(imported("blip2", "tools")).items() if not homes & declared}
    assert missing == set()


def test_every_dependency_is_imported():
    homes = set().union(*distributions(imported("blip2", "tools")).values())
    assert homes >= DEPENDENCIES
    assert homes & {"mmcv-lite", "mmcv"}


def test_the_test_extra_is_what_the_tests_import_besides():
    own = {path.stem for path in (ROOT / "tests").rglob("*.py")}
    homes = distributions(imported("tests") - own)
    declared = DEPENDENCIES | EXTRAS["mmcv-lite"] | EXTRAS["test"] | {"mmcv"}
    assert {name for name, items in homes.items() if not items & declared} == set()
    assert EXTRAS["test"] - NOT_IMPORTED <= set().union(*homes.values())
    assert not EXTRAS["test"] & DEPENDENCIES


def test_neither_kind_of_mmcv_is_forced_on_anybody():
    everything = DEPENDENCIES.union(*(lines for name, lines in EXTRAS.items() if name != "mmcv-lite"))
    assert not everything & {"mmcv", "mmcv-lite"}


def test_without_mmcv_the_error_names_both_kinds():
    code = "import sys\nsys.modules['mmcv'] = None\nimport blip2\nblip2.list_models()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0
    assert "pip install mmcv-lite" in last
    assert "full mmcv" in last


def test_the_version_is_the_same_everywhere():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["version"] == blip2.__version__ == citation["version"]
    assert f"## [{blip2.__version__}]" in changelog or "## [Unreleased]" in changelog


# ----- building -----


def build(kind: str, source: Path, target: Path) -> Path:
    """What ``python -m build`` does for one kind, without a fresh environment; the file that was made."""
    code = f"import hatchling.build, sys; print(hatchling.build.build_{kind}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(target)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target / done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (inner,) = folder.iterdir()
    return inner


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that is built from the sdist, not from the repository."""
    return zipfile.ZipFile(build("wheel", unpacked, tmp_path_factory.mktemp("wheel")))


def files_below(folder: Path) -> set[str]:
    """All files of the repository below `folder`, git-ignored ones too but for what is built, by their path from the
    root.
    """
    built = {"__pycache__", "_build"}
    paths = (path for path in folder.rglob("*") if path.is_file() and not built.intersection(path.parts))
    return {path.relative_to(ROOT).as_posix() for path in paths}


def test_the_wheel_holds_every_file_of_the_resources(wheel):
    expected = set().union(*(files_below(ROOT / folder) for folder in RESOURCES)) | {"model-index.yml"}
    prefix = "blip2/.mim/"
    assert {name.removeprefix(prefix) for name in wheel.namelist() if name.startswith(prefix)} == expected


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if not name.startswith("blip2/.mim/")}
    code = {name for name in names if ".dist-info/" not in name}
    assert code == {name for name in files_below(ROOT / "blip2") if ".mim" not in name}
    assert f"blip2-{blip2.__version__}.dist-info/licenses/LICENSE" in names


def test_the_wheel_holds_the_weights_byte_for_byte(wheel):
    weights = sorted((ROOT / "configs").rglob("*.safetensors"))
    assert weights
    names = [f"blip2/.mim/{path.relative_to(ROOT).as_posix()}" for path in weights]
    assert sum(wheel.getinfo(name).compress_size for name in names) <= 12_000_000
    for name, path in zip(names, weights, strict=True):
        assert wheel.read(name) == path.read_bytes()


def test_the_sdist_holds_what_the_tests_and_the_docs_need(unpacked):
    for folder in ("blip2", *RESOURCES, "tests", "docs", ".ci", ".dev_scripts"):
        wanted = files_below(ROOT / folder)
        assert {name for name in wanted if not (unpacked / name).is_file()} == set()
    for name in (
        "Makefile",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "CITATION.cff",
        "LICENSE",
        "pyproject.toml",
    ):
        assert (unpacked / name).is_file()
