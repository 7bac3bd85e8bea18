"""What the forward pass of the vision tower keeps for its backward pass."""

import math
from functools import partial

import jax
import pytest

from reflex_jax.models.attention_choice import AttentionChoice
from reflex_jax.models.qwen_vl import HowToCompute, encode_images
from tests.tiny_policy import CONFIG, odd_prompts, tiny_params


def kept(attention: str, *, remat: bool) -> int:
    """Numbers in float32, the parameters and the pictures themselves included."""
    how = HowToCompute(attention=AttentionChoice(attention, "cpu"), remat=remat)
    look = partial(encode_images, vision=jax.device_put(odd_prompts().vision), config=CONFIG, how=how)

    def pull_back(tower):
        return jax.vjp(lambda tower: look({"vision": tower}), tower)[1]

    leaves = jax.tree.leaves(jax.eval_shape(pull_back, tiny_params()["vision"]))
    return sum(math.prod(leaf.shape) for leaf in leaves if leaf.dtype == "float32")


@pytest.mark.parametrize("attention", ["xla", "blocked"])
def test_without_remat_the_tower_keeps_what_its_attention_in_blocks_made_and_no_products(attention):
    more = kept(attention, remat=False) - kept(attention, remat=True)
    vision, image_ids = CONFIG.vision, odd_prompts().vision.image_ids
    in_blocks = len(vision.full_attention_layers) if attention == "blocked" else 0
    filled = -image_ids[0].size % 32 + image_ids[0].size  # log-sum-exps lie in blocks
    of_layer = image_ids.size * vision.width + len(image_ids) * filled * vision.heads
    assert more == in_blocks * of_layer
