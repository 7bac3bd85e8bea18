"""The notebooks and their text form say the same; the default test run executes the notebooks themselves."""

import jupytext
import pytest

NAMES = ["01_rewards_by_hand"]


@pytest.mark.parametrize("name", NAMES)
def test_notebook_and_script_are_in_step(repository, name):
    folder = repository / "notebooks"
    script, notebook = (jupytext.read(folder / f"{name}{ending}") for ending in (".py", ".ipynb"))
    assert [(c.cell_type, c.source) for c in script.cells] == [(c.cell_type, c.source) for c in notebook.cells]


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short_and_pictures_are_inside(repository, name):
    notebook = jupytext.read(repository / "notebooks" / f"{name}.ipynb")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert max(len(cell.source.splitlines()) for cell in code) <= 12
    assert sum("image/png" in output.get("data", {}) for cell in code for output in cell.get("outputs", [])) >= 3
