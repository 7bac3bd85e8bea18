"""What a run needs of one device's memory, by formula from its shapes: the one estimate of pre-flight and plan.

A term is counted where the arithmetic cannot do without it: each array in its dtype, cut as the mesh cuts it, once where
a compiler may hold it twice. So the estimate lies below what a compiled program takes and refuses only what cannot run.
Measured (`tests/planning/test_memory.py`): programs for TPUs of the 3B and 7B recipes, 86 to 96 % of what sampling takes
and 81 to 91 % of the update; programs for a CPU of small models, 65 to 98 % of the largest function. Not on a GPU.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from reflex_jax.config import Config
from reflex_jax.planning.device_memory import GIB
from reflex_jax.step.abstract_run import AbstractRun, bytes_on_device, bytes_on_host, numbers_of_device
from reflex_jax.step.generate import samples_in_stages
from reflex_jax.step.layerwise import count_layers, is_dict, part_at, parts_of
from reflex_jax.step.open_rows import gathered_sizes
from reflex_jax.step.sampling import Sampling
from reflex_jax.step.shapes import attention_of, read_at_once, sampled_at_once
from reflex_jax.trees import Params

# what compiled programs take of the estimate, at most about; measured where `tests/planning/test_memory.py` says
COMPILERS_SHARE = {"generate": 1.16, "update": 1.25}
Terms = Mapping[str, float]  # what for -> bytes of one device


@dataclass(frozen=True)
class MemoryEstimate:
    """Needs of one device while a run lasts."""

    resident: Terms  # from the first step to the last
    phases: Mapping[str, Terms]  # what comes on top while a phase lasts, by "function: part of it"
    on_host: float = 0.0  # of the host's memory, for one device; see `memory.offload`

    def of(self, function: str = "") -> tuple[str, float]:
        """The phase of a function (default: of the whole step) that needs most, and the bytes in use while it lasts."""
        names = [name for name in self.phases if not function or name.partition(":")[0] == function]
        worst = max(names, key=lambda name: sum(self.phases[name].values()))
        return worst, self.resident_bytes + sum(self.phases[worst].values())

    @property
    def resident_bytes(self) -> float:
        """What one device holds for the whole run."""
        return sum(self.resident.values())

    def terms(self, phase: str) -> str:
        """What a phase needs as "name GiB, ...", the largest first, what is below a hundredth of it left out."""
        terms = {**self.resident, **self.phases[phase]}
        least = 0.01 * sum(terms.values())
        shown = sorted(((size, name) for name, size in terms.items() if size > least), reverse=True)
        return ", ".join(f"{name} {size / GIB:.2f}" for size, name in shown)


def estimate_memory(run: AbstractRun) -> MemoryEstimate:
    """Adds up the arrays of a run that exist at the same time."""
    shapes = _Shapes(run)
    resident = {
        f"{run.config.policy.master_dtype} {'adapters' if run.config.policy.lora.rank else 'masters'}": bytes_on_device(
            run.state.params
        ),
        "moments": bytes_on_device((run.state.optimizer_state, run.state.step)),
        "fixed parameters": bytes_on_device(run.frozen.fixed),
        "reference": bytes_on_device(run.frozen.reference),
        "judge": bytes_on_device(run.frozen.judge),
        # of the first device of a process, which has to hold them beside its part of everything else
        "text encoders": sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(run.encoders)),
    }
    phases = {f"update: {part}": terms for part, terms in (_update(shapes) | _optimise(shapes)).items()}
    if not run.is_supervised:
        weights = {"weights to sample with": bytes_on_device(run.weights)}
        phases["gather_weights"] = weights
        sampled = {"generate": run.config.grpo.prompts_per_step}
        if (evaluated := _evaluated_at_once(run.config)) > sampled["generate"]:
            sampled["evaluate"] = evaluated
        for function, prompts in sampled.items():
            parts = _generate(shapes, sampled_at_once(prompts, run.config.memory)).items()
            batch = {"batch": bytes_on_device(run.batch.prompts) * prompts / run.config.grpo.prompts_per_step}
            phases |= {f"{function}: {part}": {**weights, **batch, **terms} for part, terms in parts}
        phases["score_rollout"] = _score(shapes)
    return MemoryEstimate(resident, phases, on_host=bytes_on_host(run.state))


class _Shapes:
    """One device's share of a batch, and the arrays that one prompt with its group is made of there."""

    def __init__(self, run: AbstractRun):
        self.run, self.config = run, run.config
        self.text, self.vision = run.shapes.policy.text, run.shapes.policy.vision
        self.attention = attention_of(run.config, run.shapes)
        mesh = run.shapes.mesh.shape
        self.ways, self.tensor = mesh["data"] * mesh["fsdp"], mesh["tensor"]
        self.number = jnp.dtype(self.config.policy.dtype).itemsize  # bytes, in the compute dtype
        self.has_wide_sums = self.config.memory.gradient_sums == "float32" and self.number < 4
        prompts, group, self.steps = run.completions
        self.minibatch = prompts if run.is_supervised else self.config.grpo.minibatch_prompts
        self.prompts = prompts / self.ways
        self.prompt = run.sizes.prompt_tokens
        self.group = group
        self.completions = group * self.steps  # tokens of a group
        self.slots = run.sizes.windows * self.vision.patches_per_window
        cut = self.tensor if self.text.key_heads % self.tensor == 0 else 1
        self.key_width = self.text.key_heads * self.text.head_width / cut  # of the keys, and of the values

    def at_once(self, prompts: int) -> float:
        """How many of so many prompts have activations at one time."""
        return read_at_once(prompts, self.config.memory) / self.ways

    def text_scores(self, tokens: int) -> float:
        """Float32 attention scores of one decoder layer over one row of tokens, where they are held whole."""
        held = tokens**2 if self.attention.holds_scores(tokens) else 0
        return 4 * self.text.heads / self.tensor * held

    def image_scores(self) -> float:
        """Float32 attention scores of one vision layer that reads the whole image, where they are held whole.

        The tower's weights are not cut over `tensor`, but the partitioner may cut its heads.
        """
        reach = self.vision.patches_read or self.slots
        held = self.slots * reach if self.attention.holds_scores(reach) else 0
        return 4 * self.vision.heads / self.tensor * held

    def features(self) -> float:
        """What the vision tower makes of one prompt's pictures."""
        of_slot = (1 + len(self.vision.deepstack_layers)) * self.text.width
        return self.slots / self.vision.patches_per_feature * of_slot * self.number

    def saved_by_text(self) -> float:
        """What the backward pass of the language model reads of the forward pass."""
        text, tokens = self.text, self.prompt + self.completions
        added = len(self.vision.deepstack_layers) * tokens * text.width * self.number
        if self.config.memory.remat:  # each layer's input
            return text.layers * tokens * text.width * self.number + added
        # the results of matrix products; queries, mixed values and the feed-forward block are cut over `tensor`
        rows = 2 * text.width + 2 * self.key_width + (text.query_width + 2 * text.hidden) / self.tensor
        mixed = 4 * tokens * text.query_width / self.tensor
        return text.layers * (tokens * rows * self.number + mixed + self.text_scores(tokens)) + added

    def saved_by_vision(self) -> float:
        """What the backward pass of the vision tower reads of the forward pass."""
        vision = self.vision
        each = vision.width * self.number  # the layer's input
        blocks = len(vision.full_attention_layers)  # without `remat` what an attention in blocks made, too
        if self.config.memory.remat or self.attention.holds_scores(vision.patches_read or self.slots):
            blocks = 0
        of_blocks = (vision.width * self.number + 4 * vision.heads) / self.tensor
        return self.slots * (vision.depth * each + blocks * of_blocks)

    def logits(self, prompts: float) -> float:
        """Logits of one chunk of completion tokens of so many prompts, and their gradients."""
        rows = max(1, int(prompts))
        width = min(self.prompt + self.completions, max(1, self.config.memory.log_prob_chunk // rows))
        return 2 * width * rows * self.text.vocabulary / self.tensor * 4

    def head(self, prompts: float) -> dict[str, float]:
        """Where logits come chunk by chunk: the head whole over `fsdp`, as each reads it; its gradient so far, if it trains."""
        rows = max(1, int(prompts))
        if self.config.memory.log_prob_chunk // rows >= self.prompt + self.completions:
            return {}
        numbers = self.text.vocabulary / self.tensor * self.text.width
        gathered = self.number * numbers if self.run.shapes.mesh.shape["fsdp"] > 1 else 0.0
        trains = ("embed" if self.text.is_tied else "head") in self.run.state.params
        so_far = 4 * numbers / self.run.shapes.mesh.shape["fsdp"] if trains and self.has_wide_sums else 0.0
        own = 4 * numbers if trains else 0.0
        return {"head": gathered, "gradient of the head": own, "of all chunks so far, in float32": so_far}

    def widest_gradient(self, params: Params) -> dict[str, float]:
        """Of one layer of a tower, where devices add up their parts in float32: till then it is whole over `fsdp`."""
        kernels = jax.tree.leaves(params.get("layers", {})) if self.has_wide_sums else []
        numbers = max((math.prod(kernel.shape[1:]) for kernel in kernels), default=0)
        return {"largest gradient of a layer, in float32": 4 * numbers / self.tensor} if numbers else {}

    def reaches_layers(self) -> bool:
        """Whether gradients go through the decoder's layers: something trains that is read in them or before them."""
        return bool({"layers", "embed", "vision"} & self.run.state.params.keys())

    def reaches_tower(self) -> bool:
        """The same of the vision tower's layers: not where its merger alone trains."""
        return bool({"layers", "patch_embed"} & self.run.state.params.get("vision", {}).keys())

    def text_reading(self) -> Terms:
        """The largest array while one decoder layer reads a prompt."""
        return _largest(
            {"attention scores": self.text_scores(self.prompt), "feed-forward block": self._text_block(self.prompt)}
        )

    def text_backward(self) -> Terms:
        """The largest arrays in the backward pass of one decoder layer: of the feed-forward block, or of the attention.

        The attention's probabilities are there all the while; its own backward pass makes their gradients beside them.
        """
        tokens = self.prompt + self.completions
        width = 4 * self.text.width + 2 * self.text.query_width
        rows: dict[str, float] = {"rows of one layer": tokens * width * self.number}
        scores, block = self.text_scores(tokens), self._text_block(tokens)
        if not self.config.memory.remat:  # probabilities and block are among what was saved
            return rows | {"gradients of the largest array": max(scores, block / 2)}
        return rows | _backward(scores, block)

    def image_backward(self) -> Terms:
        """The same of a vision layer that reads the whole image."""
        rows: dict[str, float] = {"rows of one layer": 6 * self.slots * self.vision.width * self.number}
        block = self.slots * self.vision.hidden_products * self.vision.hidden / self.tensor * self.number
        return rows | _backward(self.image_scores(), block)

    def _text_block(self, tokens: float) -> float:
        """Both halves of a decoder layer's gated feed-forward block."""
        return tokens * 2 * self.text.hidden / self.tensor * self.number


def _evaluated_at_once(config: Config) -> int:
    """Questions of an evaluation that are sampled together while the run trains, as far as settings say."""
    training = config.training
    return (
        min(training.evaluation_batch, training.evaluation_questions or sys.maxsize) if training.evaluate_every else 0
    )


def _generate(shapes: _Shapes, count: int) -> dict[str, Terms]:
    """While `count` prompts are sampled together."""
    text, prompts = shapes.text, count / shapes.ways
    token = 2 * text.layers * shapes.key_width * shapes.number
    before = {
        "keys and values of the prompts": prompts * shapes.prompt * token,
    }
    at_once = shapes.at_once(count)
    return {
        "pictures": before | {"attention scores of the pictures": at_once * shapes.image_scores()},
        "prompts": before | _times(at_once, shapes.text_reading()),
        "tokens": before
        | {
            "keys and values of the completions": prompts * shapes.completions * token,
            # each with its prompt's
            "keys and values of the last open completions": _gathered(shapes, count)
            * (shapes.prompt + shapes.steps)
            * token,
            "logits": prompts * shapes.group * text.vocabulary * 4 / shapes.tensor,
        },
    }


def _gathered(shapes: _Shapes, count: int) -> int:
    """The open completions of a device that are gathered beside all of them, while `count` prompts are sampled together."""
    memory, text = shapes.config.memory, shapes.text
    sampling = Sampling(
        group_size=shapes.group, max_new_tokens=shapes.steps, temperature=1.0, in_stages=memory.rollout_stages
    )  # fmt: skip
    in_stages = samples_in_stages(
        sampling, rows=count // shapes.ways * shapes.group, key_numbers=text.key_heads * text.head_width,
        layer=shapes.run.weights["layers"][0],
    )  # fmt: skip
    return max(gathered_sizes(count, shapes.group, shapes.ways), default=0) if in_stages else 0


def _score(shapes: _Shapes) -> Terms:
    judge, batch = shapes.run.shapes.judge, shapes.run.inputs_of_judge
    if judge is None or batch is None:
        return {}
    vision = judge.vision
    rows = 1 + vision.grid_size**2
    number = jnp.dtype(shapes.config.judge.dtype).itemsize
    at_once = shapes.at_once(shapes.config.grpo.prompts_per_step)
    block = at_once * rows * (vision.width + vision.hidden) * number
    scores = at_once * vision.heads * rows**2 * 4
    terms = {"batch": bytes_on_device(batch), "image tower of the judge": max(block, scores)}
    if shapes.config.judge.saliency == "attention_gradient":  # in the last block only [CLS] asks
        whole = vision.depth - 1 - shapes.config.judge.saliency_block % vision.depth
        terms["slopes of the judge's attention"] = whole * scores * batch.statements.shape[1]
    return terms


def _update(shapes: _Shapes) -> dict[str, Terms]:
    config, state = shapes.config, shapes.run.state
    prompts = shapes.minibatch
    at_once = shapes.at_once(prompts)
    masters = {name: 4 * numbers_of_device(part) for name, part in state.params.items()}  # as float32
    trained, narrow = sum(masters.values()), shapes.number / 4
    before: dict[str, float] = {"batch": bytes_on_device(shapes.run.batch)}
    if config.policy.dtype != config.policy.master_dtype or config.memory.offload == "optimizer+masters":
        before[f"weights in {config.policy.dtype}"] = trained * narrow
    if config.memory.microbatch_prompts not in (0, prompts):
        before["gradients so far"] = trained
    of_vision = masters.get("vision", 0) * narrow
    is_one_round = at_once == prompts / shapes.ways
    # of all rounds, with their gradients where the tower trains
    before["features of the pictures"] = prompts / shapes.ways * shapes.features() * (2 if of_vision else 1)
    by_vision = {"saved by the vision tower": at_once * shapes.saved_by_vision()} if shapes.reaches_tower() else {}
    # in one round the tower remembers what it saw while the decoder works; in several it looks again
    by_text = {"saved by the decoder": at_once * shapes.saved_by_text()} if shapes.reaches_layers() else {}
    saved = (by_vision if is_one_round else {}) | by_text
    gradients = {"gradients": trained * narrow - of_vision}
    phases: dict[str, Terms] = {
        "log-probs": before | saved | {"logits": shapes.logits(at_once)} | shapes.head(at_once),
    }
    if shapes.reaches_layers():
        backward = _times(at_once, shapes.text_backward()) | shapes.widest_gradient(state.params)
        phases["language model"] = before | saved | gradients | backward
    if shapes.reaches_tower():
        gradients = {"gradients": trained * narrow}
        backward = _times(at_once, shapes.image_backward()) | shapes.widest_gradient(state.params["vision"])
        phases["pictures"] = before | by_vision | gradients | backward
    return phases


def _optimise(shapes: _Shapes) -> dict[str, Terms]:
    """What comes from the host for the update of one part of the parameters, and goes back, beside the gradients."""
    state = shapes.run.state
    if shapes.config.memory.offload == "none":
        return {}
    arrays = [
        state.params,
        *(part for part in jax.tree.leaves(state.optimizer_state, is_leaf=is_dict) if is_dict(part)),
    ]
    most = 0.0
    for path, has_layers in parts_of(state.params):
        size = sum(bytes_on_host(part_at(tree, path)) for tree in arrays)
        layers = count_layers(part_at(state.params, path)) if has_layers else 1
        most = max(most, size / layers)
    return {"optimiser": {"gradients": 4 * numbers_of_device(state.params), "state on its way": 2 * most}}


def _backward(scores: float, block: float) -> dict[str, float]:
    """The largest arrays of a layer's backward pass that computes the layer again."""
    if not scores:
        return {"feed-forward block": 1.5 * block}
    return _largest({"attention scores": 2 * scores, "attention scores and feed-forward block": scores + 1.5 * block})


def _times(factor: float, terms: Terms) -> dict[str, float]:
    return {name: factor * size for name, size in terms.items()}


def _largest(terms: Terms) -> dict[str, float]:
    name = max(terms, key=terms.__getitem__)
    return {name: terms[name]}
