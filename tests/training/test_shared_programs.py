"""What the tests do to be quick: programs are not mixed up, the cache computes the same, files that come first exist."""

import dataclasses

import jax
import numpy as np

from reflex_jax.config import MeshConfig
from reflex_jax.config_reader import load_config
from reflex_jax.run.logs import CompilationCounter
from reflex_jax.sharding import make_mesh
from reflex_jax.step.shapes import named_shapes
from tests.conftest import LONGEST


def test_runs_share_a_program_where_all_but_their_names_is_alike(build_once):
    config = load_config("configs/phantom.yaml", ["run.dir=one", "mesh.data=1"])
    shapes = named_shapes(config, make_mesh(MeshConfig(data=1), jax.devices()[:1]))
    program = build_once(config, shapes, updates=3)
    elsewhere = load_config("configs/phantom.yaml", ["run.dir=two", "mesh.data=1"])
    again = named_shapes(elsewhere, make_mesh(MeshConfig(data=1), jax.devices()[:1]))
    assert build_once(elsewhere, again, updates=3) is program
    fewer = dataclasses.replace(shapes.vocabulary, allowed=np.arange(len(shapes.vocabulary.allowed)) > 0)
    others = [
        (load_config("configs/phantom.yaml", ["mesh.data=1", "optimizer.learning_rate=1e-3"]), shapes, 3),
        (config, shapes, 4),
        (config, dataclasses.replace(shapes, mesh=make_mesh(MeshConfig(data=1), jax.devices()[1:2])), 3),
        (config, dataclasses.replace(shapes, vocabulary=fewer), 3),
    ]
    assert all(build_once(config, shapes, updates=updates) is not program for config, shapes, updates in others)


def test_the_cache_answers_with_the_same_bits_and_counts_as_a_compilation():
    hits = []

    def note(event: str, **_: str | int) -> None:
        hits.append(event) if event == "/jax/compilation_cache/cache_hits" else None

    jax.monitoring.register_event_listener(note)
    counter, numbers = CompilationCounter(), np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    first, second = (jax.jit(lambda x: jax.nn.softmax(x @ x.T) * 0.3217)(numbers) for _ in range(2))
    assert counter.total == 2 and len(hits) >= 1
    np.testing.assert_array_equal(first, second)
    counter.close()
    jax.monitoring.unregister_event_listener(note)


def test_the_longest_files_of_the_tests_are_named_as_they_are(repository):
    assert not [name for name in LONGEST if not (repository / "tests" / f"{name}.py").is_file()]
    assert len(set(LONGEST)) == len(LONGEST)
