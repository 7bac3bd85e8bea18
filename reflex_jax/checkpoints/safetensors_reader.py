"""Opens the safetensors files of a directory: which files count, which tensors they hold, blocks of them on demand.

Only headers are read until a block is asked for. What lies in a file's place but is none is one line with its name.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PureWindowsPath

import jax
import numpy as np
from safetensors import SafetensorError, safe_open

from reflex_jax.checkpoints.safetensors_writer import BLOCK_ROWS, FLOATS, INDEX_FILE, SINGLE_FILE
from reflex_jax.config import ConfigError
from reflex_jax.json_files import LFS_POINTER, read_json_object

Bounds = tuple[tuple[int, int], ...]  # of a block: start and stop on each axis
_OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.gguf", "*.ckpt", "*.msgpack", "*.h5")


@dataclass(frozen=True)
class Tensor:
    """A tensor on disk. The file is open only while a block is read: pages that stay mapped would count as ours."""

    file: Path
    name: str  # in the file
    shape: tuple[int, ...]
    code: str  # safetensors' word for the dtype

    def blocks(self, bounds: Bounds) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields the part inside `bounds`, some rows at a time, with their place in it.

        Args:
          bounds: of the tensor's first axis, and of its second or of all others behind one another.
        """
        (first, last), *columns = bounds
        with safe_open(self.file, framework="numpy") as opened:
            data = opened.get_slice(self.name)
            for start in range(first, last, BLOCK_ROWS):
                stop = min(start + BLOCK_ROWS, last)
                if len(self.shape) > 2:
                    rows = data[start:stop].reshape(stop - start, -1)[:, slice(*columns[0])]
                else:
                    rows = data[tuple(slice(*b) for b in ((start, stop), *columns))]
                yield slice(start - first, stop - first), rows

    def equals(self, other: Tensor) -> bool:
        """Whether both hold the same numbers."""
        if self.shape != other.shape or {self.code, other.code} - FLOATS.keys():
            return False
        bounds = tuple((0, size) for size in self.shape)
        pairs = zip(self.blocks(bounds), other.blocks(bounds), strict=True)
        return all(np.array_equal(mine, theirs) for (_, mine), (_, theirs) in pairs)


def open_tensors(
    directory: Path, rename: Callable[[str], str], *, setting: str = "policy.path", files: Sequence[Path] | None = None
) -> dict[str, Tensor]:
    """Lists all tensors of a checkpoint; only headers are read.

    Args:
      directory: of the checkpoint.
      rename: a tensor's name in the file -> the name it is listed under.
      setting: the key that led to it, which begins messages.
      files: that hold the tensors; None: those of `weight_files`.

    Raises:
      ConfigError: a file is missing, damaged or something else, or two tensors come under one name.
    """
    tensors: dict[str, Tensor] = {}
    doubles: list[str] = []
    for file in weight_files(directory, setting=setting) if files is None else files:
        for tensor in headers(file, setting=setting):
            known = tensors.setdefault(rename(tensor.name), tensor)
            if known is not tensor:
                doubles.append(
                    f"{printable(known.name)} in {known.file.name} and {printable(tensor.name)} in {file.name}"
                )
    if doubles:
        raise ConfigError(
            f"{setting}: {directory}: {len(doubles)} tensors are there twice: {'; '.join(doubles[:3])}. "
            "Save the checkpoint anew, in an empty directory."
        )
    return tensors


def weight_files(directory: Path, *, setting: str = "policy.path") -> list[Path]:
    """Returns model.safetensors or, where it is absent, the shards that the index names: transformers' order.

    Raises:
      ConfigError: there is neither, the index is damaged or leads out of the directory, or shards are missing.
    """
    single, index = directory / SINGLE_FILE, directory / INDEX_FILE
    if os.path.isfile(single):
        if os.path.isfile(index):
            _say_index_is_unused(directory, setting)
        return [single]
    if not os.path.lexists(index):
        raise ConfigError(_no_weights(directory, setting))
    names = _shard_names(index, setting)
    absent = [name for name in names if not os.path.isfile(directory / name)]
    if absent:
        raise ConfigError(
            f"{setting}: {index} names {len(names)} files; expected {printable(', '.join(absent[:3]))}"
            f"{', ...' if len(absent) > 3 else ''} ({len(absent)} are not there). Download the checkpoint whole."
        )
    return [directory / name for name in names]


def _shard_names(index: Path, setting: str) -> list[str]:
    weight_map = read_json_object(index, setting=setting).get("weight_map")
    names = weight_map.values() if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(
            f'{setting}: {index}: expected "weight_map", an object of tensor names and file names. Copy it again.'
        )
    outside = sorted({name for name in names if _leads_out(name)})
    if outside:
        raise ConfigError(
            f"{setting}: {index}: expected files of its own directory; got {printable(', '.join(outside[:3]))}. "
            "Take the checkpoint from its publisher."
        )
    return sorted(set(names))


def _leads_out(name: str) -> bool:
    # a link is followed: that is how the hub's cache keeps its files
    paths = (PurePath(name), PureWindowsPath(name))
    return any(path.anchor or ".." in path.parts for path in paths) or not name.isprintable()


def headers(file: Path, *, setting: str = "policy.path") -> Iterator[Tensor]:
    """Yields what a file's header says of its tensors.

    Raises:
      ConfigError: it is damaged, or a Git LFS pointer; the message begins with the setting that led to it.
    """
    try:
        with file.open("rb") as raw:
            is_pointer = raw.read(len(LFS_POINTER)) == LFS_POINTER.encode()
        if is_pointer:
            raise ConfigError(
                f"{setting}: {file} is a Git LFS pointer, not the file itself. Run `git lfs pull` where it was cloned."
            )
        with safe_open(file, framework="numpy") as opened:
            for name in opened.keys():  # noqa: SIM118
                data = opened.get_slice(name)
                yield Tensor(file, name, tuple(data.get_shape()), data.get_dtype())
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{setting}: {file} is damaged ({printable(str(error))}). Download it again.") from error


def printable(text: str, *, longest: int = 120) -> str:
    """What a file holds as a message shows it: one line, no control characters, cut."""
    text = text.encode("unicode_escape").decode()
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _no_weights(directory: Path, setting: str) -> str:
    others = sorted(path.name for pattern in _OTHER_FORMATS for path in directory.glob(pattern))
    found = f"; found {', '.join(others[:3])}" if others else "; not found"
    remedy = "Save the model with transformers' save_pretrained" if others else "Download the checkpoint whole"
    return f"{setting}: expected {SINGLE_FILE} or {INDEX_FILE} in {directory}{found}. {remedy}."


@functools.lru_cache(maxsize=64)
def _say_index_is_unused(directory: Path, setting: str) -> None:
    """Once for each directory."""
    if jax.process_index() == 0:
        print(
            f"{setting}: {directory} has {SINGLE_FILE} and {INDEX_FILE}; {SINGLE_FILE} is read, as transformers does.",
            file=sys.stderr,
            flush=True,
        )
