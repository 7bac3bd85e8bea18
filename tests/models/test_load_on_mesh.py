"""Models loaded onto a mesh say the same as models loaded onto one device."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import reflex_jax as rx
from reflex_jax.config import MeshConfig
from reflex_jax.data.phantom import phantom_image
from reflex_jax.sharding import make_mesh

DEVICES = 8  # of tests/conftest.py


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


def test_policy(mesh):
    alone, spread = rx.load_policy("phantom"), rx.load_policy("phantom", "float32", mesh)
    kernel = spread.params["layers"]["gate"]["kernel"]
    assert len(kernel.sharding.device_set) == DEVICES and not kernel.sharding.is_fully_replicated
    tokens, mask = np.arange(8).reshape(2, 4), np.array([[1, 1, 1, 1], [0, 1, 1, 1]])
    expected = np.asarray(rx.policy_logits(alone, tokens, mask))
    got = np.asarray(rx.policy_logits(spread, tokens, mask))
    np.testing.assert_allclose(got[mask == 1], expected[mask == 1], atol=1e-4 * np.abs(expected).max())


def test_judge(mesh):
    alone, spread = rx.load_judge("phantom"), rx.load_judge("phantom", "float32", mesh)
    assert all(len(leaf.sharding.device_set) == DEVICES for leaf in jax.tree.leaves(spread.params))
    picture = phantom_image(rx.make_phantom(0, 0))
    inputs = ([picture], [["there is a cyst"]], ["there is a nodule"])
    expected, got = (rx.judge_evidence(judge, *inputs).image_text_similarity for judge in (alone, spread))
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read as Linux tells it")
def test_the_host_holds_one_shard_and_one_tensor_and_not_the_model(repository, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(repository / "benchmarks")
    from load_weights import write_checkpoint

    write_checkpoint(tmp_path, "tiny")
    command = [sys.executable, repository / "benchmarks" / "load_weights.py", tmp_path, "--load"]
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    allowed = figures["largest_shard_mb"] + figures["largest_tensor_mb"] + 6  # MB of the interpreter's own
    assert figures["largest_peak_beyond_arrays_mb"] < allowed < figures["arrays_gb"] * 1e3 / 2
