"""The same training step with TRL's GRPOTrainer and a batched judge in PyTorch; prints one JSON line of medians.

    pip install torch==2.13.0 torchvision==0.28.0 transformers==5.23.0 trl==1.16.0 accelerate==1.15.0 datasets==5.2.0 \
        open_clip_torch==3.3.0 timm==1.0.31
    python benchmarks/trl_peer.py CHECKPOINTS --policy tiny

Needs nothing of this package but `workload.py` beside this file. PyTorch is tuned: freed memory is kept by glibc, the
judge encodes all statements of the step in one batch padded to the longest, the image tower runs once per picture and
its last block for [CLS] only, and all saliency maps come from one batched pullback.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import io
import json
import math
import os
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import workload

_KEEP_FREED_MEMORY = {-4: 0, -1: -1}  # mallopt: M_MMAP_MAX 0 blocks, M_TRIM_THRESHOLD never


class TorchJudge:
    """A frozen BiomedCLIP in PyTorch: rewards of groups of statements about pictures (paper Eq. 2-7).

    Saliency is attention times its gradient in the last block (Chefer et al. 2021), masks keep half of the 14 x 14
    cells.
    """

    def __init__(self, directory: Path):
        """Loads an open_clip directory without asking the hub."""
        import open_clip
        from transformers import AutoTokenizer

        text = json.loads((directory / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
        text |= {"hf_model_name": str(directory), "hf_model_pretrained": False}
        model, _, self._preprocess = open_clip.create_model_and_transforms(f"local-dir:{directory}", text_cfg=text)
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = AutoTokenizer.from_pretrained(directory)
        self.statement_tokens = 0  # of the longest statement of the last batch
        self.distinct_statements = 0

    def __call__(self, images: list[Any], statements: list[list[str]]) -> list[float]:
        """Visual fidelity + provenance of each statement; the last statement of each group is the anchor."""
        import torch

        texts = self._encode_texts([text for group in statements for text in group]).unflatten(0, (len(images), -1))
        self.distinct_statements = max(len(set(group)) for group in statements)
        pixels = torch.stack([self._preprocess(image.convert("RGB")) for image in images])
        vectors, maps = self._encode_images(pixels, texts)
        masks = maps > maps.quantile(0.5, dim=-1, keepdim=True)
        own, anchor = masks[:, :-1], masks[:, -1:]
        iou = (own & anchor).sum(-1) / (own | anchor).sum(-1).clamp(min=1)
        text_text = (texts[:, :-1] * texts[:, -1:]).sum(-1)
        image_text = (texts[:, :-1] * vectors[:, None]).sum(-1)
        rewards = (iou > 0.5).float() + 0.5 * (text_text > 0.8).float() + 0.5 * (image_text > 0.5).float()
        return rewards.flatten().tolist()

    def _encode_texts(self, texts: list[str]) -> Any:
        import torch

        encoded = self._tokenizer(texts, padding="longest", truncation=True, max_length=64, return_tensors="pt")
        ids = encoded["input_ids"]
        self.statement_tokens = ids.shape[1]
        with torch.no_grad():
            return torch.nn.functional.normalize(self._model.encode_text(ids), dim=-1)

    def _encode_images(self, pixels: Any, texts: Any) -> tuple[Any, Any]:
        """Unit image vectors [P, E] and maps [P, S, 196]."""
        import torch

        trunk = self._model.visual.trunk
        *blocks, last = trunk.blocks
        with torch.no_grad():
            rows = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(pixels)))
            for block in blocks:
                rows = block(rows)
            heads = last.attn.num_heads
            qkv = last.attn.qkv(last.norm1(rows)).unflatten(-1, (3, heads, -1))
            queries, keys, values = qkv.permute(2, 0, 3, 1, 4)  # [3, P, N, T, H]
            scores = (queries[:, :, :1] * last.attn.scale) @ keys.transpose(-1, -2)  # only [CLS] leaves the block
            attention = scores.softmax(-1)
        attention.requires_grad_()
        with torch.enable_grad():
            cls = rows[:, :1] + last.attn.proj((attention @ values).transpose(1, 2).flatten(2))
            cls = cls + last.mlp(last.norm2(cls))
            vectors = torch.nn.functional.normalize(self._model.visual.head(trunk.norm(cls)[:, 0]), dim=-1)
            directions = texts.transpose(0, 1)
            (slopes,) = torch.autograd.grad(vectors, attention, directions, is_grads_batched=True)  # [S, P, N, 1, T]
        relevance = (slopes * attention.detach()).clamp(min=0).mean(2)[:, :, 0, 1:]
        return vectors.detach(), relevance.transpose(0, 1)


class Stopwatch:
    """Seconds by name within a step, one dictionary per step."""

    def __init__(self) -> None:
        """Starts empty."""
        self.steps: list[dict[str, float]] = []

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Adds the time of a block to the current step."""
        started = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - started)

    def add(self, name: str, amount: float) -> None:
        """Adds to an entry of the current step."""
        self.steps[-1][name] = self.steps[-1].get(name, 0.0) + amount


def make_trainer(
    checkpoints: Path,
    policy: str,
    *,
    steps: int,
    prompts: int,
    new_tokens: int,
    lengths: str,
    side: int,
    directory: str,
) -> tuple[Any, Stopwatch, TorchJudge]:
    """Builds a GRPOTrainer whose parts are timed."""
    from datasets import Dataset, Image
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    watch, judge = Stopwatch(), TorchJudge(checkpoints / "biomedclip")

    class TimedTrainer(GRPOTrainer):
        def _generate(self, *arguments: Any, **options: Any) -> Any:
            with watch.measure("generate"):
                return super()._generate(*arguments, **options)

        def _calculate_rewards(self, *arguments: Any, **options: Any) -> Any:
            with watch.measure("reward"):
                return super()._calculate_rewards(*arguments, **options)

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            with watch.measure("rollout"):
                outputs = super()._generate_and_score_completions(inputs)
            watch.add("prompt_tokens", float(outputs["prompt_mask"].sum(-1).max()))
            lengths = outputs["completion_mask"].sum(-1).float()
            watch.add("new_tokens", float(lengths.sum()))
            watch.add("mean_length", float(lengths.mean()))
            watch.add("max_length", float(lengths.max()))
            return outputs

    class StepClock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            watch.steps.append({})
            self._started, self._cpu_started = time.perf_counter(), time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.add("step", time.perf_counter() - self._started)
            watch.add("cpu", time.process_time() - self._cpu_started)
            print({name: round(value, 3) for name, value in watch.steps[-1].items()}, file=sys.stderr, flush=True)

    rows = [
        {
            "prompt": [{"role": "user", "content": row.question}],
            "question": row.question,
            "answer": row.answer,
            "image": {"bytes": row.png, "path": None},
        }
        for row in workload.make_questions(side=side)
    ]
    path = str(checkpoints / f"qwen-{policy}")
    processor = AutoProcessor.from_pretrained(path, padding_side="left")
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(path)
    if lengths == "geometric":
        sample_only(model, workload.allowed_ids(processor.tokenizer.get_vocab(), new_tokens))
    group = workload.GROUP_SIZE
    trainer = TimedTrainer(
        model=model,
        processing_class=processor,
        reward_funcs=make_reward(judge),
        train_dataset=Dataset.from_list(rows).cast_column("image", Image()),
        callbacks=[StepClock()],
        args=GRPOConfig(
            output_dir=directory, max_steps=steps, per_device_train_batch_size=prompts * group, num_generations=group,
            gradient_accumulation_steps=1, max_completion_length=new_tokens,
            temperature=workload.TEMPERATURE[lengths], top_k=0, top_p=1.0,
            # an image token among the answer's would be taken for a second picture
            generation_kwargs={"suppress_tokens": [model.config.image_token_id, model.config.video_token_id]},
            learning_rate=workload.LEARNING_RATE, beta=workload.KL_COEFFICIENT, loss_type="grpo", bf16=False,
            use_cpu=True, gradient_checkpointing=False, seed=0, report_to=[], save_strategy="no", logging_strategy="no",
            disable_tqdm=True, dataloader_num_workers=0,
        ),
    )  # fmt: skip
    return trainer, watch, judge


def sample_only(model: Any, ids: list[int]) -> None:
    """Lets `generate` choose among a few ids: one sum for each token, where TRL's own options would sort the vocabulary."""
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList

    class OnlyThese(LogitsProcessor):
        def __init__(self) -> None:
            self._penalties = torch.full((model.config.get_text_config().vocab_size,), -math.inf)
            self._penalties[ids] = 0.0

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            return scores + self._penalties

    model.generate = functools.partial(model.generate, logits_processor=LogitsProcessorList([OnlyThese()]))


def make_reward(judge: TorchJudge) -> Any:
    """Judge and format reward of a batch of completions, as TRL calls it."""

    def reward(
        completions: list[Any], image: list[Any], question: list[str], answer: list[str], **_: Any
    ) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        firsts = range(0, len(texts), workload.GROUP_SIZE)
        statements = [
            [f"{question[i]} {workload.four_words(text)}." for text in texts[i : i + workload.GROUP_SIZE]]
            + [f"{question[i]} {answer[i]}."]
            for i in firsts
        ]
        judged = judge([image[i] for i in firsts], statements)
        pattern = re.compile(r"\s*<think>.*</think>\s*<answer>.*</answer>\s*", re.DOTALL)
        return [score + bool(pattern.fullmatch(text)) for score, text in zip(judged, texts, strict=True)]

    return reward


def summarise(watch: Stopwatch, judge: TorchJudge, warmup: int) -> dict[str, Any]:
    """Medians over the steps after the warm-up."""
    import torch

    for step in watch.steps:
        step["score"] = step.pop("rollout") - step["generate"] - step["reward"]
        step["update"] = step["step"] - step["generate"] - step["reward"] - step["score"]
    measured = watch.steps[warmup:]
    medians = {name: statistics.median(step[name] for step in measured) for name in measured[0]}
    return {
        **medians,
        "mean_length": statistics.mean(step["mean_length"] for step in measured),
        "max_length": max(step["max_length"] for step in measured),
        "steps": len(measured),
        "step_all": [round(step["step"], 3) for step in measured],
        "tokens_per_second": medians["new_tokens"] / medians["step"],
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "statement_tokens": judge.statement_tokens,
        "distinct_statements": judge.distinct_statements,
        "threads": torch.get_num_threads(),
        "preload": os.environ.get("LD_PRELOAD", ""),
    }


def main() -> None:
    """Parses the command line, measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, help="directory written by make_checkpoints.py")
    parser.add_argument("--policy", default="tiny", choices=("tiny", "small"))
    parser.add_argument("--steps", type=int, default=4, help="measured steps")
    parser.add_argument("--warmup", type=int, default=1, help="steps before them")
    parser.add_argument("--prompts", type=int, default=workload.PROMPTS_PER_STEP)
    parser.add_argument("--new-tokens", type=int, default=workload.NEW_TOKENS)
    parser.add_argument("--lengths", default="full", choices=workload.LENGTHS, help="of the completions")
    parser.add_argument("--side", type=int, default=workload.IMAGE_SIDE, help="pixels")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    libc = ctypes.CDLL(None)
    for option, value in _KEEP_FREED_MEMORY.items():
        libc.mallopt(option, value)
    import torch

    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(io.StringIO()):
        trainer, watch, judge = make_trainer(
            arguments.checkpoints.resolve(), arguments.policy, steps=arguments.warmup + arguments.steps,
            prompts=arguments.prompts, new_tokens=arguments.new_tokens, lengths=arguments.lengths, side=arguments.side,
            directory=directory,
        )  # fmt: skip
        trainer.train()
    print(json.dumps(summarise(watch, judge, arguments.warmup)))


if __name__ == "__main__":
    main()
