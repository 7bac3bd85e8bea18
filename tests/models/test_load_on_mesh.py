"""Models loaded onto a mesh say the same as models loaded onto one device."""

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
