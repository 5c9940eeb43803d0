"""README.md and CONTRIBUTING.md say what is true: their Python and commands run, their files and links exist."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from blip2.apis.metafile import model_entries
from blip2.checkpoints import is_offline

ROOT = Path(__file__).parents[1]
# Pages whose blocks are run each by itself; tests/docs has those whose blocks build on one another.
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/analysis.md",
    "docs/benchmarks.md",
    "docs/checkpoints.md",
    "docs/configs.md",
    "docs/datasets.md",
    "docs/get_started.md",
    "docs/how_it_works.md",
    "docs/inference.md",
    "docs/migration.md",
    "docs/offline.md",
    "docs/performance.md",
    "docs/precision_memory.md",
    "docs/pretraining.md",
    "docs/protocols.md",
    "docs/testing.md",
    "docs/tiny_model.md",
    "docs/training.md",
    "docs/troubleshooting.md",
    "docs/visualization.md",
    "docs/web_demo.md",
]
SHELLS = {"python": [sys.executable, "-c"], "shell": ["bash", "-euo", "pipefail", "-c"]}
# A test that a page shows is called as well.
# A config that a page shows is loaded.
LOAD_CONFIG = (
    "from pathlib import Path\nfrom blip2 import load_config\nPath('it.py').write_text({!r})\nload_config('it.py')"
)
CALL_TESTS = "\nfor name, value in list(globals().items()):\n    if name.startswith('test_'):\n        value()\n"


def blocks(page: str) -> list[tuple[str, str, str]]:
    """(comment above it, language, text) of every fenced block; the comment is '' where there is none."""
    text = (ROOT / page).read_text(encoding="utf-8")
    pattern = r"(?:^<!-- ((?:(?!-->).)*?) -->\n+)?^```(\w+)\n(.*?)^```$"
    return re.findall(pattern, text, flags=re.MULTILINE | re.DOTALL)


def runnable() -> list[tuple[str, str, str]]:
    """(page, language, text) of the blocks that can be run without network."""
    return [
        (page, language, text)
        for page in PAGES
        for comment, language, text in blocks(page)
        if language in SHELLS and not comment.startswith(("not run:", "ci:"))
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "language", "text"), runnable())
def test_the_block_runs(page, language, text, tmp_path):
    assert is_offline()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = text
    if language == "python":
        command = LOAD_CONFIG.format(text) if text.startswith("_base_") else text + CALL_TESTS
    done = subprocess.run(
        [*SHELLS[language], command],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    printed = done.stdout.splitlines()
    for said in re.findall(
        r"^\s*print\(.*\)  # (.+)$", text, re.MULTILINE
    ):  # what a page says that it prints, in order
        assert said in printed, f"{text}\nprinted:\n{done.stdout[-2000:]}"
        del printed[: printed.index(said) + 1]


def test_every_page_with_blocks_is_run():
    cards = [f"configs/{folder}/README.md" for folder in ("blip2", "blip2_tiny")]
    in_order = [f"docs/{page}.md" for page in ("extending", "finetuning", "new_task")]  # tests/docs has a file for each
    pages = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")), *cards]
    left = [page for page in pages if page not in PAGES and any(kind in SHELLS for _, kind, _ in blocks(page))]
    assert sorted(left) == sorted([*in_order, *cards])
    assert all((ROOT / f"tests/docs/test_{Path(page).stem}.py").is_file() for page in in_order)
    run = {card: [kind for comment, kind, _ in blocks(card) if kind in SHELLS and not comment] for card in cards}
    assert list(map(len, run.values())) == [0, 5]  # tests/docs/test_model_cards.py runs the small models' five


def test_what_is_not_run_says_why():
    for page in PAGES:
        for comment, language, _ in blocks(page):
            assert language in {*SHELLS, "bibtex"}, f"{page}: a block in {language!r}"
            assert not comment or re.fullmatch(r"ci: \w+|not run: .{10,}", comment), f"{page}: {comment}"


def test_commands_that_are_not_run_name_files_and_options_that_exist():
    for page in PAGES:
        for comment, _, text in blocks(page):
            if comment.startswith("not run:"):
                names = re.findall(r"(?:tools|configs)/[\w./-]+\.(?:py|sh)", text)
                assert [name for name in names if not (ROOT / name).is_file()] == []
                for name in re.findall(r"--model (\S+)", text):
                    assert name in model_entries()


def test_ci_finds_the_two_commands():
    spec = importlib.util.spec_from_file_location("readme", ROOT / ".ci" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert module.command("install", text).endswith("blip2 caption demo")
    assert module.command("test", text).split()[0] == "pytest"
    with pytest.raises(LookupError, match="0 blocks below '<!-- ci: typo -->'"):
        module.command("typo", text)


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_is_in_the_sites_contents():
    contents = (ROOT / "docs" / "index.md").read_text(encoding="utf-8").splitlines()
    assert [page.stem for page in ROOT.glob("docs/*.md") if page.stem not in contents] == ["index"]


def test_every_model_is_in_the_table():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in model_entries() if f"[`{name}`]" not in text] == []


def test_the_readme_says_what_the_small_model_cannot_do():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "knows drawn scenes only" in text
    assert "could not run the published weights" in text
