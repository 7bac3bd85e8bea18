"""Notebooks and their text form say the same. The test run executes them: the first by default, the others in the slow set."""

import jupytext
import pytest

NAMES = [
    "01_rewards_by_hand", "02_what_the_judge_sees", "03_grpo_on_phantoms", "04_bring_your_own", "05_scaling_plan",
    "06_does_grounding_pay",
]  # fmt: skip


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
