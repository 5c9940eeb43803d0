"""Imports point one way: tools, cli → {benchmark, webdemo} → apis → {engine, evaluation, datasets, models,
visualization} → checkpoints → {structures, registry, utils}. The groups in braces don't import one another.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import blip2
from blip2.utils.resources import resources_root

# From the bottom to the top; a part may import what stands below its row, and itself.
LAYERS = [
    {"structures", "registry", "utils"},
    {"checkpoints"},
    {"engine", "evaluation", "datasets", "models", "visualization"},
    {"apis"},
    {"benchmark", "webdemo"},
    {"cli"},
    {"tools"},
]
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer}
PACKAGE = Path(blip2.__file__).parent
TOOLS = resources_root() / "tools"


def imported_parts(source: str, package: str) -> Iterator[tuple[int, str]]:
    """(line, part of blip2) of every import in `source`, a module of `package`; the package itself is no part."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "import_module":
            names = [value.value for value in node.args if isinstance(value, ast.Constant)]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "blip2":
            names = [f"blip2.{node.attr}"]
        for name in names:
            root, _, rest = name.partition(".")
            if root == "blip2" and rest:
                yield node.lineno, part_of(rest.split(".")[0])


def part_of(name: str) -> str:
    """The part behind ``blip2.<name>``: names that the package gives on demand are those of the apis."""
    return "apis" if name in blip2.__all__ and not name.startswith("__") else name


def breaches(source: str, package: str, part: str) -> list[str]:
    """What is wrong with the imports of a module of `part`, one text each."""
    wrong = []
    for line, other in imported_parts(source, package):
        if other == part or other.startswith("__"):
            continue
        if other not in HEIGHT:
            wrong.append(f"line {line}: blip2.{other} stands in no layer of this test")
        elif HEIGHT[other] >= HEIGHT[part]:
            wrong.append(f"line {line}: {part} imports {other}")
    return wrong


def modules() -> dict[Path, tuple[str, str]]:
    """(package, part) of every module in a part of blip2, and of the scripts in tools/."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        inner = path.relative_to(PACKAGE)
        if inner.parts[0] not in (".mim", "__init__.py", "__main__.py"):
            found[path] = (".".join(["blip2", *inner.parent.parts]), inner.parts[0].removesuffix(".py"))
    return found | dict.fromkeys(sorted(TOOLS.rglob("*.py")), ("", "tools"))


def test_every_part_of_the_package_has_its_layer():
    assert {part for _, part in modules().values()} <= set(HEIGHT)


def test_imports_point_downwards():
    found = {
        path.name if path.is_relative_to(TOOLS) else str(path.relative_to(PACKAGE)): wrong
        for path, (package, part) in modules().items()
        if (wrong := breaches(path.read_text(encoding="utf-8"), package, part))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("models", "from blip2.apis.hub import get_model"),
        ("models", "from blip2 import apis"),
        ("models", "from blip2 import get_model"),
        ("models", "import blip2\nblip2.get_model('name')"),
        ("models", "from ..datasets import transforms"),
        ("models", "def late():\n    import blip2.engine.runner"),
        ("models", "from importlib import import_module\nimport_module('blip2.evaluation')"),
        ("utils", "from blip2.registry import MODELS"),
        ("checkpoints", "from blip2.models.language.opt import OPTForCausalLM"),
        ("benchmark", "from blip2.webdemo import app"),
        ("apis", "from .. import cli"),
    ],
)
def test_a_planted_breach_is_found(part, source):
    assert len(breaches(source, f"blip2.{part}", part)) == 1


def test_allowed_imports_are_no_breach():
    source = "import torch, blip2\nfrom blip2 import __version__\nfrom . import heads\nfrom ..registry import MODELS"
    assert breaches(source, "blip2.models", "models") == []
    assert breaches("from . import opt\nfrom .. import freeze", "blip2.models.language", "models") == []


@pytest.mark.parametrize("statement", ["import blip2", "import blip2.cli.main"])
def test_importing_the_package_pulls_in_nothing_heavy(statement):
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "torchvision", "timm", "transformers", "mmcv", "mmengine.runner", "matplotlib", "cv2"}
    assert heavy & set(done.stdout.split()) == set()


def test_each_part_has_a_folder_of_tests():
    parts = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    folders = {path.name for path in Path(__file__).parent.iterdir() if path.is_dir()}
    assert parts - folders == set()
