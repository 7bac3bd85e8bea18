"""The version is written once, in `reflex_jax/__init__.py`; everything else derives from it or is held to it here."""

import ast
import configparser
import re
import subprocess
import sys

import pytest

import reflex_jax
from reflex_jax.training import preflight


def test_setup_reads_the_version_from_a_literal(repository):
    """Of a literal setuptools reads the text; anything else it would import, and the build has no jax."""
    settings = configparser.ConfigParser()
    settings.read(repository / "setup.cfg")
    assert settings["metadata"]["version"] == "attr: reflex_jax.__version__"
    program = ast.parse((repository / "reflex_jax" / "__init__.py").read_text(encoding="utf-8"))
    values = [n.value for n in program.body if isinstance(n, ast.Assign) and n.targets[0].id == "__version__"]
    assert [ast.literal_eval(value) for value in values] == [reflex_jax.__version__]
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+|\.dev\d+)?", reflex_jax.__version__)


def test_setuptools_finds_it_without_importing(repository):
    pytest.importorskip("setuptools")  # Python 3.12 environments may lack it
    program = (
        "import sys\n"
        "from setuptools.dist import Distribution\n"
        "distribution = Distribution()\n"
        "distribution.parse_config_files(['setup.cfg'])\n"
        "assert 'reflex_jax' not in sys.modules\n"
        "print(distribution.metadata.version)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=repository, capture_output=True, text=True, check=False
    )
    assert ended.stdout.split() == [reflex_jax.__version__], ended.stderr


def test_the_citation_names_it(repository):
    stated = re.findall(r"^version: (.+)$", (repository / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert stated == [reflex_jax.__version__]


def test_processes_compare_the_version_of_the_files_that_run(monkeypatch):
    """Not that of some installation beside a source tree."""
    monkeypatch.setattr(reflex_jax, "__version__", "99.0.0")
    assert preflight._facts(preflight.Config())["reflex_jax"] == "99.0.0"
