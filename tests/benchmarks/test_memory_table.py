"""The table of memory tells settings and machines apart, by the estimate that a run goes by."""

import pytest


@pytest.fixture
def memory_table(monkeypatch, repository):
    monkeypatch.syspath_prepend(repository / "benchmarks")
    monkeypatch.chdir(repository)
    import memory_table

    return memory_table


def test_a_state_that_waits_or_is_narrow_fits_where_the_whole_one_does_not(memory_table, monkeypatch, capsys):
    states = {name: memory_table.STATES[name] for name in ("float32", "float32, moments wait", "all bfloat16")}
    monkeypatch.setattr(memory_table, "STATES", states)
    monkeypatch.setattr(memory_table, "MACHINES", memory_table.MACHINES[:1])
    monkeypatch.setattr(memory_table, "MODELS", ("3b",))
    monkeypatch.setattr("sys.argv", ["memory_table.py", "data.max_prompt_tokens=512"])
    memory_table.main()
    cells = [line.split("|")[2].strip() for line in capsys.readouterr().out.splitlines()[2:5]]
    wide, waiting, narrow = (cell.partition(" ")[2] for cell in cells)
    assert wide == "(49.7) -"
    assert waiting == "(21.7) + 28 on the host **fits**" and narrow == "(28.7) **fits**"
    needs = [float(cell.partition(" ")[0]) for cell in cells]
    assert needs[1] < needs[0] > needs[2]
