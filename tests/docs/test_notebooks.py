"""The notebooks run, and say what is written in them."""

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "demo").glob("*.ipynb"))


def texts(cell):
    """What a cell printed or gave back as text; of a picture that there is one."""
    shown = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
    return [
        "a picture" if "image/png" in output.get("data", {}) else output.get("text") or output["data"]["text/plain"]
        for output in shown
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_says_what_is_written_in_it(path, tmp_path):
    written, run = (nbformat.read(path, as_version=4) for _ in range(2))
    nbclient.NotebookClient(run, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [texts(cell) for cell in run.cells] == [texts(cell) for cell in written.cells]


def test_there_is_a_notebook_and_it_shows_its_results():
    for path in NOTEBOOKS:
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        assert sum(bool(cell.outputs) for cell in cells) > len(cells) // 2
    assert NOTEBOOKS
