"""What the batches of a run have in common: code, machine, how the judge looks, what is paid."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

import reflex_jax
from reflex_jax.config import Config
from reflex_jax.models.biomedclip import BiomedClipConfig
from reflex_jax.sharding import AnyMesh, platform_of
from reflex_jax.statements.operator import DECL_VERSION
from reflex_jax.step.score import needs_judge


def code_facts() -> dict[str, str | None]:
    """Version of the package, the commit of the clone it runs from ("+" behind it: files differ), version of `decl`."""
    return {"version": reflex_jax.__version__, "commit": _commit(), "decl": DECL_VERSION}


def device_facts(mesh: AnyMesh) -> dict[str, Any]:
    """What the same bits depend on: versions of JAX, kind of device, mesh, processes, flags of the compiler."""
    return {
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "backend": platform_of(mesh),
        "kind": jax.devices()[0].device_kind,
        "mesh": dict(mesh.shape),
        "processes": jax.process_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", "").strip(),
    }


def judge_facts(config: Config) -> dict[str, Any] | None:
    """How the judge looks; None: nothing asks it."""
    if not needs_judge(config):
        return None
    judge = config.judge
    return {
        "saliency": judge.saliency, "saliency_block": judge.saliency_block, "quantile": judge.quantile,
        "tie_rule": judge.tie_rule, "centered": judge.centered, "resize": judge.resize, "picture": judge.picture,
        "dtype": judge.dtype,
    }  # fmt: skip


def reward_facts(config: Config) -> dict[str, Any]:
    """What is paid, and how it becomes advantages."""
    components = {
        name: {"weight": c.weight, "when": c.when, "options": dict(c.options)}
        for name, c in config.rewards.components.items()
    }
    return {
        "components": components, "normalise": config.rewards.normalise, "advantage": config.grpo.advantage,
    }  # fmt: skip


def shape_facts(config: Config, judge: BiomedClipConfig | None, prompts: int, group: int) -> dict[str, Any]:
    """The static sizes of a scored batch; those of the judge only where there is one."""
    shape: dict[str, Any] = {"P": prompts, "G": group, "microbatch": config.memory.microbatch_prompts}
    if judge is not None:
        side = judge.vision.grid_size
        shape |= {
            "S": group + (2 if config.judge.centered else 1), "T": config.judge.max_statement_tokens,
            "D": judge.embed_dim, "grid": [side, side], "pixels": [judge.vision.image_size] * 2,
        }  # fmt: skip
    return shape


def _commit() -> str | None:
    """Of the clone that the package's files lie in; None where they lie in none, or git is not there."""
    root = Path(reflex_jax.__file__).resolve().parent.parent
    if not (root / ".git").exists():  # installed: a repository further up is somebody else's
        return None
    try:
        found = [
            subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=True)
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return found[0].stdout.strip() + ("+" if found[1].stdout.strip() else "")
