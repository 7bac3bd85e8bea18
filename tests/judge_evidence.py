"""Evidence by hand, for tests of what reads it."""

import jax.numpy as jnp

from reflex_jax.records import Evidence


def evidence_of(**fields) -> Evidence:
    """P x G completions that all have a statement; what is not given is 0."""
    prompts, group = next(iter(fields.values())).shape
    zeros = jnp.zeros((prompts, group))
    maps = jnp.zeros((prompts, group, 2, 2))
    given = {
        "image_embeddings": jnp.zeros((prompts, 3)), "anchor_embeddings": jnp.zeros((prompts, 3)),
        "statement_embeddings": jnp.zeros((prompts, group, 3)), "saliency": maps, "anchor_saliency": maps[:, 0],
        "masks": maps > 0, "anchor_masks": maps[:, 0] > 0, "iou": zeros, "chance_corrected_iou": zeros,
        "text_text_similarity": zeros, "image_text_similarity": zeros, "has_statement": zeros == 0,
        "is_degenerate": zeros > 0, "tied_fraction": zeros,
    }  # fmt: skip
    return Evidence(**given | fields)
