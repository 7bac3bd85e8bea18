"""The loop of the supervised phase (`reflex sft`)."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from reflex_jax.checkpoints.policy import save_policy
from reflex_jax.config import Config, ConfigError
from reflex_jax.data.examples import Example, list_offenders
from reflex_jax.data.order import ShuffledPasses
from reflex_jax.data.prompts import PromptSizes
from reflex_jax.data.sources import load_examples
from reflex_jax.processes import is_first, refused_together
from reflex_jax.run.directory import open_run_directory
from reflex_jax.run.logs import open_logger
from reflex_jax.run.ownership import refuse_second_owner
from reflex_jax.sharding import check_batch
from reflex_jax.step.program import Models, load_models, measure_prompts, start_state
from reflex_jax.step.state import compute_params, make_optimizer, split_trainable
from reflex_jax.stops import not_written
from reflex_jax.training.sft import SftBatch, encode_targets, make_sft_step

POLICY_FOLDER = "policy"  # inside the run directory: what `policy.path` of the next run names


def run_sft(config: Config) -> Path:
    """Imitates the target completions of the data source for `training.steps` steps.

    Returns:
      The Hugging Face directory with the trained policy.
    Raises:
      ConfigError: the source has no target completions, or the run directory is in use.
      RunStopped: the disk takes no more.
    """
    refuse_second_owner(config.run.directory)
    with ExitStack() as held:  # the run directory, which is this run's until the end
        return _run(config, *_load(config, held))


def _run(config: Config, models: Models, params: Any, examples: list[Example], sizes: PromptSizes) -> Path:
    processor = models.policy.processor
    steps = config.training.steps or -(-len(examples) // config.sft.batch_size)  # one epoch, none left out
    optimizer = make_optimizer(config.optimizer, steps)
    trainable, fixed = split_trainable(params, config.policy.trainable)
    state = start_state(models, trainable, optimizer)
    rows = models.rows(config.sft.batch_size)
    sft_step = make_sft_step(
        models.policy.config, optimizer, allowed=models.allowed, dtype=config.policy.dtype,
        remat=config.policy.remat, chunk=config.policy.log_prob_chunk,
    )  # fmt: skip

    order = ShuffledPasses(
        len(examples), lambda step: step * config.sft.batch_size, batch_rate=config.sft.batch_size,
        seed=config.run.seed, stream="supervised",
    )  # fmt: skip

    def batch_at(step: int) -> SftBatch:
        chosen = [examples[i] for i in rows.take(order.batch(step))]
        prompts = processor.collate(
            [processor.encode(e.load_image(), e.question) for e in chosen],
            prompt_tokens=sizes.prompt_tokens, windows=sizes.windows,
        )  # fmt: skip
        tokens, weights = encode_targets(
            [e.target for e in chosen], processor.tokenizer, eos_id=models.eos_ids[0], pad_id=processor.pad_id,
            answer_weight=config.sft.answer_weight, length=config.rollout.max_new_tokens,
        )  # fmt: skip
        return rows.place(SftBatch(prompts=prompts, tokens=tokens, weights=weights))

    logger = open_logger(
        config.run.directory, tensorboard=config.logging.tensorboard, wandb_project=config.logging.wandb_project,
        resume_step=0, is_writing=is_first(),
    )  # fmt: skip
    reader = ThreadPoolExecutor(max_workers=1)
    following = reader.submit(batch_at, 0)
    try:
        is_quiet = not (config.logging.progress and is_first())
        for step in tqdm(range(1, steps + 1), unit="step", desc=config.run.name, disable=is_quiet):
            started = time.perf_counter()
            batch = following.result()
            following = reader.submit(batch_at, step)  # pictures of the next step load while this one computes
            state, metrics = sft_step(state, fixed, batch)
            metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
            logger.log(step, {"phase": "supervised", **metrics, "time/step": time.perf_counter() - started})
    finally:
        reader.shutdown(cancel_futures=True)
        logger.close()
    directory = config.run.directory / POLICY_FOLDER
    params = compute_params(state.params, fixed, "float32")
    try:
        save_policy(models.policy.directory, models.policy.config, params, directory, dtype="float32")
    except OSError as error:
        raise not_written(f"the policy of step {steps}", directory, error) from error
    return directory


def _load(config: Config, held: ExitStack) -> tuple[Models, Any, list[Example], PromptSizes]:
    """Everything that can be refused, before the first step."""
    with refused_together():
        models, params = load_models(config)
        check_batch(models.mesh, config.sft.batch_size, "sft.batch_size")
        examples = load_examples(config.data, config.data.split, seed=config.run.seed, noise=config.sft.noise)
        lacking = [e.id for e in examples if e.target is None]
        if lacking:
            raise ConfigError(
                f"{config.data.source}: {len(lacking)} of {len(examples)} questions have no completion to imitate "
                f"({list_offenders(lacking)}). The phantom source has them."
            )
        sizes = measure_prompts(config, models.policy.processor, examples)
        is_resumed = is_first() and held.enter_context(open_run_directory(config))
        if is_resumed and (config.run.directory / POLICY_FOLDER).exists():
            raise ConfigError(
                f"{config.run.directory} already holds a finished supervised run; set run.name for a new one."
            )
    return models, params, examples, sizes
