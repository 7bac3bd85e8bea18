"""What is held out of a training split: whole pictures, the same for every order of the questions."""

import dataclasses

import numpy as np

from reflex_jax.data.examples import Example, Picture
from reflex_jax.data.holdout import picture_groups, split_by_picture
from reflex_jax.data.modalities import canonical_modality


def ask(number, *pictures, digests=None):
    images = [Picture(id=name, data=b"", digest=(digests or {}).get(name)) for name in pictures]
    return Example(id=str(number), question="?", answer="a", answer_type="open", images=tuple(images))


def test_no_picture_is_on_both_sides_and_the_share_is_kept():
    examples = [ask(n, f"p{n % 40}", *([f"q{n % 40}"] if n % 3 else [])) for n in range(400)]
    train, held_out = split_by_picture(examples, 0.1)
    assert sorted(e.id for e in train + held_out) == sorted(e.id for e in examples)
    assert 40 <= len(held_out) < 40 + 10
    seen = [{p.id for e in part for p in e.images} for part in (train, held_out)]
    assert not seen[0] & seen[1]


def test_the_cut_does_not_depend_on_the_order():
    examples = [ask(n, f"p{n % 30}", f"p{n % 7}") if n % 5 else ask(n, f"q{n}") for n in range(200)]
    _, held_out = split_by_picture(examples, 0.2)
    shuffled = [examples[i] for i in np.random.default_rng(0).permutation(len(examples))]
    assert {e.id for e in split_by_picture(shuffled, 0.2)[1]} == {e.id for e in held_out}


def test_pictures_of_equal_bytes_and_chains_of_shared_ones_are_one_group():
    digests = {"a": "1", "a copy": "1"}
    examples = [ask(0, "a", digests=digests), ask(1, "a copy", "b", digests=digests), ask(2, "b", "c"), ask(3, "d")]
    first, second, third, other = picture_groups(examples)
    assert first == second == third != other


def test_text_alone_stands_for_itself_and_something_is_left_to_train_on():
    train, held_out = split_by_picture([ask(n) for n in range(10)], 0.3)
    assert len(held_out) == 3
    train, held_out = split_by_picture([ask(n, "one") for n in range(10)], 0.5)
    assert (len(train), len(held_out)) == (10, 0)
    assert split_by_picture([], 0.5) == ([], [])


def test_a_modality_has_one_name():
    names = {
        "MR (Mag-netic Resonance Imaging)": "MRI", "MRI_SCAN": "MRI", "mri": "MRI", "CT(Computed Tomography)": "CT",
        "<CT_SCAN>": "CT", "X_RAY": "X-Ray", "x-ray": "X-Ray", "Chest X-Ray": "X-Ray", "OCT (Optical Coherence Tomography": "OCT",
        "OCT_SCAN": "OCT", "Fundus Photography": "Fundus", "ultrasound": "Ultrasound", "Microscopy Images": "Microscopy",
        "Dermoscopy": "Dermoscopy", "PET_SCAN": "PET", "SPECT": "SPECT", "MAMMOGRAPHY": "Mammography", "GRAPHICS": "GRAPHICS",
    }  # fmt: skip
    assert {name: canonical_modality(name) for name in names} == names
    assert dataclasses.replace(ask(0), modality="MRI").modality == canonical_modality("MRI")
