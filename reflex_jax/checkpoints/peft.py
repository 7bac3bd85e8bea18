"""Adapters in the layout of Hugging Face's peft package: `adapter_config.json` beside `adapter_model.safetensors`.

A directory is read only if its adapter does what ours does, A and B beside linear layers that are all of one rank, and is the
one that `policy.lora` describes: a run's settings say what it computes, and a plan needs no files. What is written peft loads
onto the torch model, with names in the spelling of transformers 5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental import multihost_utils

from reflex_jax.checkpoints.qwen_tensors import hub_name, leaf_sources, module_name
from reflex_jax.checkpoints.safetensors_reader import Tensor, headers, printable
from reflex_jax.checkpoints.safetensors_writer import FLOATS, TensorSpec, write_file
from reflex_jax.checkpoints.tensor_report import describe_tensors
from reflex_jax.checkpoints.whole_directory import whole_directory
from reflex_jax.config import ConfigError, LoraConfig
from reflex_jax.json_files import read_json_object
from reflex_jax.models.lora import KERNEL, LORA_A, LORA_B
from reflex_jax.models.qwen_vl import QwenVLConfig
from reflex_jax.trees import Params

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_SETTING = "policy.lora.path"
_NAMES = {LORA_A: "lora_A.weight", LORA_B: "lora_B.weight"}
_WRAPPER = "base_model.model."
# fields that may say anything: they are compared below, or say how the adapter was made and not what it computes
_READ = {
    "peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules", "init_lora_weights", "bias",
    "lora_dropout", "inference_mode", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "peft_version",
    "megatron_core", "qalora_group_size", "layers_pattern", "eva_config", "lora_ga_config", "runtime_config",
    "ensure_weight_tying",
}  # fmt: skip
# how A and B began, with the weights beside them untouched; other beginnings (pissa, olora, loftq, corda) move those
_BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal")


def read_adapter(
    directory: Path, config: QwenVLConfig, layers: Sequence[str], linear: Sequence[str], lora: LoraConfig
) -> Params:
    """Reads an adapter to start from.

    Args:
      directory: of `policy.lora.path`.
      config: sizes of the policy.
      layers: paths of the linear layers that have adapters in the run.
      linear: paths of all that could.
      lora: section `policy.lora`, which the adapter has to be of.
    Returns:
      float32 arrays of numpy, in the tree that trains.
    Raises:
      ConfigError: it is no such directory; or it holds what is not supported, other settings or other tensors: all of it.
    """
    if not directory.is_dir():
        raise ConfigError(
            f"{_SETTING}: expected a directory with {CONFIG_FILE} and {WEIGHTS_FILE}; {directory} is none."
        )
    settings = read_json_object(directory / CONFIG_FILE, setting=_SETTING)
    problems = [*_unsupported(settings), *_other_settings(settings, lora)]
    file = directory / WEIGHTS_FILE
    if not file.is_file():
        raise ConfigError(
            "\n".join(
                [*problems, f"{_SETTING}: expected {WEIGHTS_FILE} in {directory}; save the adapter as safetensors."]
            )
        )
    tensors = {_plain(tensor.name, config.family): tensor for tensor in headers(file, setting=_SETTING)}
    # of the rank that it names itself, so that another one than the run's is said once
    rank = settings["r"] if isinstance(settings.get("r"), int) else lora.rank
    problems += _other_tensors(tensors, config, layers, linear, rank)
    if problems:
        raise ConfigError("\n".join(problems))
    leaves = {
        f"{layer}/{leaf}": np.stack([_numbers(tensors[f"{module}.{name}"]).T for module in _modules(config, layer)])
        for layer in layers
        for leaf, name in _NAMES.items()
    }
    broken = [path for path, leaf in leaves.items() if not np.isfinite(leaf).all()]
    if broken:
        raise ConfigError(f"{_SETTING}: {file}: {describe_tensors(not_finite=broken)}. Take one from before it broke.")
    # of one layer where nothing is stacked
    return unflatten_dict(
        {path: leaf if _is_stacked(config, path.rpartition("/")[0]) else leaf[0] for path, leaf in leaves.items()},
        sep="/",
    )


def save_adapter(
    adapters: Params,
    config: QwenVLConfig,
    directory: Path,
    *,
    lora: LoraConfig,
    linear: Sequence[str],
    base: str,
    dtype: str = "float32",
) -> None:
    """Writes an adapter, whole or not at all. With several processes all call it, process 0 writes.

    Args:
      adapters: the tree that trains.
      config: sizes of the policy.
      directory: new or empty.
      lora: section `policy.lora` of the run.
      linear: paths of all linear layers of the policy.
      base: what peft is to load it onto: a directory or a name of the hub.
      dtype: of the tensors on disk.
    Raises:
      ConfigError: layers that are one in torch have adapters apart.
      OSError: the disk is full, or the like; then nothing is left behind.
    """
    leaves = flatten_dict(adapters, sep="/")
    layers = sorted({path.rpartition("/")[0] for path in leaves})
    refuse_fused(config, layers, "--layout peft")
    tensors: dict[str, np.ndarray] = {}
    for layer in layers:
        for leaf, name in _NAMES.items():
            whole = _fetched(leaves[f"{layer}/{leaf}"])
            rows = whole if _is_stacked(config, layer) else whole[None]
            tensors |= {
                f"{_WRAPPER}{module_name(module, config.family)}.{name}": row.T
                for module, row in zip(_modules(config, layer), rows, strict=True)
            }
    if jax.process_index() == 0:
        specs = {name: TensorSpec(tensors[name].shape, np.dtype(jnp.dtype(dtype))) for name in sorted(tensors)}
        with whole_directory(directory, last=CONFIG_FILE) as partial:
            write_file(partial / WEIGHTS_FILE, specs, (tensors[name] for name in specs))
            written = json.dumps(_settings(config, layers, linear, lora, base), indent=2, sort_keys=True)
            (partial / CONFIG_FILE).write_text(written + "\n")
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("adapter saved")


def refuse_fused(config: QwenVLConfig, layers: Sequence[str], setting: str) -> None:
    """Refuses layers that are parts of one layer in torch, which peft gives one adapter.

    Raises:
      ConfigError: all of them.
    """
    if fused := [layer for layer in layers if leaf_sources(config)[f"{layer}/{KERNEL}"].part is not None]:
        raise ConfigError(
            f"{setting}: {', '.join(fused)} are one layer in torch, which peft gives one adapter; here each has its own. "
            "Export the merged policy, or leave them out of policy.lora.targets."
        )


def _unsupported(settings: Mapping[str, Any]) -> list[str]:
    """What an adapter has that ours have not."""
    found = {name: value for name, value in settings.items() if name not in _READ and value}
    if settings.get("peft_type") != "LORA":
        found["peft_type"] = settings.get("peft_type")
    if settings.get("bias", "none") != "none":
        found["bias"] = settings["bias"]
    if settings.get("init_lora_weights", True) not in _BEGINNINGS:
        found["init_lora_weights"] = settings["init_lora_weights"]
    return [
        f"{_SETTING}: {name}={printable(json.dumps(value))} is not supported: merge that adapter with peft "
        "(merge_and_unload) and start from the result by policy.path."
        for name, value in sorted(found.items())
    ]


def _other_settings(settings: Mapping[str, Any], lora: LoraConfig) -> list[str]:
    """Where `policy.lora` says something else than the adapter."""
    theirs = {
        "rank": settings.get("r", 8), "alpha": settings.get("lora_alpha", 8),  # peft's defaults
        "scaling": "rslora" if settings.get("use_rslora") else "standard",
    }  # fmt: skip
    return [
        f"{_SETTING}: its {name} is {printable(_shown(value))}; policy.lora.{name} is {_shown(getattr(lora, name))}. "
        f"Set policy.lora.{name}={printable(_shown(value))}."
        for name, value in theirs.items()
        if value != getattr(lora, name)
    ]


def _other_tensors(
    tensors: Mapping[str, Tensor], config: QwenVLConfig, layers: Sequence[str], linear: Sequence[str], rank: int
) -> list[str]:
    """How its tensors differ from those of the run's adapters."""
    refuse_fused(config, layers, _SETTING)
    expected: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        out, into = leaf_sources(config)[f"{layer}/{KERNEL}"].tensor_shape
        shapes = {LORA_A: (rank, into), LORA_B: (out, rank)}
        for module in _modules(config, layer):
            expected |= {f"{module}.{name}": shapes[leaf] for leaf, name in _NAMES.items()}
    misshaped = {
        name: (expected[name], tensor.shape)
        for name, tensor in tensors.items()
        if name in expected and tensor.shape != expected[name]
    }
    said = describe_tensors(
        expected.keys() - tensors.keys(),
        tensors.keys() - expected.keys(),
        misshaped,
        wrong_dtypes={name: tensor.code for name, tensor in tensors.items() if tensor.code not in FLOATS},
    )
    if not said:
        return []
    own = [layer for layer in linear if any(f"{m}.{_NAMES[LORA_A]}" in tensors for m in _modules(config, layer))]
    advice = (
        f" Its adapters are of {', '.join(own)}: policy.lora.targets={','.join(own)}."
        if own not in ([], [*layers])
        else ""
    )
    return [f"{_SETTING}: its tensors are not those of policy.lora.targets. {said}.{advice}"]


def _settings(
    config: QwenVLConfig, layers: Sequence[str], linear: Sequence[str], lora: LoraConfig, base: str
) -> dict[str, Any]:
    """The content of `adapter_config.json`."""
    return {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": base, "revision": None, "inference_mode": True,
        "r": lora.rank, "lora_alpha": _whole(lora.alpha), "use_rslora": lora.scaling == "rslora", "lora_dropout": lora.dropout,
        "target_modules": _target_modules(config, layers, linear), "bias": "none", "fan_in_fan_out": False, "use_dora": False,
        "init_lora_weights": True, "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {},
    }  # fmt: skip


def _target_modules(config: QwenVLConfig, layers: Sequence[str], linear: Sequence[str]) -> list[str] | str:
    """Names where they mean these layers and no others, else a regular expression."""
    last = {layer: _modules(config, layer)[0].rpartition(".")[2] for layer in linear}
    names = {last[layer] for layer in layers}
    if {layer for layer in linear if last[layer] in names} == {*layers} and not any(name.isdigit() for name in names):
        return sorted(names)
    modules = sorted({re.sub(r"\.\d+\.", ".#.", _modules(config, layer)[0].removeprefix("model.")) for layer in layers})
    return "|".join(r".*\." + re.escape(module).replace(r"\#", r"\d+") for module in modules)


def _modules(config: QwenVLConfig, layer: str) -> list[str]:
    """The hub's names of the torch layers behind one of ours, in the order of the stack."""
    return [name.removesuffix(".weight") for name in leaf_sources(config)[f"{layer}/{KERNEL}"].names]


def _is_stacked(config: QwenVLConfig, layer: str) -> bool:
    return leaf_sources(config)[f"{layer}/{KERNEL}"].is_stacked


def _plain(name: str, family: str) -> str:
    """The hub's spelling; some versions of peft leave the adapter's own name in."""
    return re.sub(r"\.(lora_[AB])\.\w+\.weight$", r".\1.weight", hub_name(name, family))


def _numbers(tensor: Tensor) -> np.ndarray:
    blocks = [rows for _, rows in tensor.blocks(tuple((0, size) for size in tensor.shape))]
    return np.concatenate(blocks).astype(np.float32)


def _fetched(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
