"""The Makefile's steps are those of .ci/run."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE, CI = (ROOT / name for name in ("Makefile", ".ci/run"))


def steps(target: str) -> list[str]:
    """The commands of a target of the Makefile."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n?)+)", MAKEFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"no target {target} in the Makefile"
    return [line.strip() for line in found[1].splitlines()]


def ci_step(title: str) -> list[str]:
    found = re.search(rf'^step "{title}"\n(.*?)\n\n', CI.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found, f"no step {title} in .ci/run"
    return found[1].splitlines()


@pytest.mark.parametrize(("target", "title"), [("lint", "lint"), ("types", "types"), ("docs", "documentation")])
def test_a_target_runs_what_ci_runs(target, title):
    folder = re.compile(r'"\$work/site"|docs/_build/html')  # where the site goes
    assert [folder.sub("SITE", line) for line in steps(target)] == [folder.sub("SITE", line) for line in ci_step(title)]


def test_tests_are_the_readme_s():
    block = re.search(r"<!-- ci: test -->\n```shell\n(.*?)\n```", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert block is not None and steps("test") == [block[1]]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_without_a_target_lists_all_of_them():
    def make(*arguments: str) -> str:
        return subprocess.run(["make", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout

    listed = {line.split()[0] for line in make().splitlines() if not line.startswith("make")}
    declared = re.search(r"^\.PHONY: (.*)$", MAKEFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert declared is not None and listed == set(declared[1].split())
    assert "mypy" in make("--dry-run", "check")
