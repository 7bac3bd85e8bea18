"""HOST: the process in which rewards from a user's own files run; what they do to it, they do not do to the run.

`user_file` starts it and talks to it: JSON over one socket, one answer to each request. First come the files, and the
answer is what they define; then completions of one component, and the answer is their results. While a component runs it
may ask back for a picture. The process ends when the run does, however that ends.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from reflex_jax.rewards.answered import Answered, Failed, Result, attempt, score_batch, score_rows
from reflex_jax.rewards.options import read_options
from reflex_jax.text.completion import ParsedCompletion

_SCORES: dict[str, Callable[..., list[Result]]] = {"row": score_rows, "batch": score_batch}


@dataclass(frozen=True)
class _Found:
    """A reward of a file."""

    kind: str
    function: Callable[..., Any]


def read_rewards(files: list[tuple[str, str]]) -> tuple[dict[str, _Found], dict[str, Any]]:
    """Runs files, given as (path, content); returns the rewards they define, and the same in JSON: kind and options of each.

    Raises:
      ValueError: a file cannot be run or defines no reward, two have one name, or a signature cannot be bound.
    """
    found: dict[str, _Found] = {}
    for number, (file, content) in enumerate(files):
        module = attempt(partial(_run, file, content, f"rewards_of_file_{number}"))
        if isinstance(module, Failed):
            raise ValueError(f"{file}: cannot be run ({module}).")
        functions = [f for f in vars(module).values() if isinstance(getattr(f, "reward_kind", None), str)]
        if not functions:
            raise ValueError(f"{file}: defines no reward; put @reward (from reflex_jax.rewards) above a function.")
        for function in functions:
            if function.__name__ in found and found[function.__name__].function is not function:
                raise ValueError(f"{file}: defines {function.__name__}, which is there already.")
            found[function.__name__] = _Found(function.reward_kind, function)
    described = {}
    for name, reward in found.items():
        options = attempt(partial(read_options, reward.function))
        if isinstance(options, Failed):
            raise ValueError(f"the reward {name} cannot be used: {options.message}")
        described[name] = {"kind": reward.kind, "options": {key: asdict(option) for key, option in options.items()}}
    return found, described


def _run(file: str, content: str, name: str) -> Any:
    """A module of what stood in a file; it may import its neighbours, and shadows nothing that is installed."""
    sys.path.append(str(Path(file).parent))
    module = sys.modules[name] = ModuleType(name)
    module.__file__ = file
    exec(compile(content, file, "exec"), vars(module))
    return module


def main() -> None:
    """Answers until there is nobody to answer."""
    connection = Connection(int(sys.argv[1]))
    os.register_at_fork(after_in_child=connection.close)  # a child that a component forks answers nobody
    _end_with_the_run()
    _limit_memory(int(sys.argv[2]))
    try:
        files = _receive(connection)
        try:
            found, described = read_rewards(files)
        except ValueError as error:
            _send(connection, {"problem": str(error)})
            return
        _send(connection, {"rewards": described})
        while True:
            _send(connection, _answer(connection, found, _receive(connection)))
    except (EOFError, OSError):
        return  # the run has ended, or has given this process up


def _answer(connection: Connection, found: dict[str, _Found], request: dict[str, Any]) -> dict[str, Any]:
    rows = [_read_row(connection, number, **row) for number, row in enumerate(request["rows"])]
    reward = found[request["name"]]
    options = {name: tuple(v) if isinstance(v, list) else v for name, v in request["options"].items()}
    results = _SCORES[reward.kind](reward.function, rows, options)
    # with the memory used up every later row would fail as well, so the run starts another process
    is_spent = any(isinstance(result, Failed) and "MemoryError" in result.error for result in results)
    return {"request": request["request"], "results": [_plain(result) for result in results], "is_spent": is_spent}


def _read_row(connection: Connection, number: int, *, has_image: bool, **fields: Any) -> Answered:
    fields |= {"options": fields["options"] and tuple(fields["options"]), "accepted": tuple(fields["accepted"])}
    fields["parsed"] = ParsedCompletion(**fields["parsed"])
    return Answered(**fields, open_image=(lambda: _ask_for_image(connection, number)) if has_image else None)


def _ask_for_image(connection: Connection, number: int) -> Any:
    from PIL import Image

    _send(connection, {"image": number})
    header = _receive(connection)
    if "problem" in header:
        raise OSError(header["problem"])
    return Image.frombytes("RGB", header["size"], connection.recv_bytes())


def _plain(result: Result) -> Any:
    return asdict(result) if isinstance(result, Failed) else result


def _send(connection: Connection, message: Any) -> None:
    connection.send_bytes(json.dumps(message).encode())


def _receive(connection: Connection) -> Any:
    return json.loads(connection.recv_bytes())


def _end_with_the_run() -> None:
    """Nothing is ever written to stdin: its end is that of the run, also of one that was killed."""
    lifeline = os.dup(0)

    def wait() -> None:
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)  # what a component has started as well

    threading.Thread(target=wait, daemon=True).start()


def _limit_memory(most: int) -> None:
    """A component that keeps what it allocates gets a MemoryError before the machine gets into trouble."""
    most = most or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    main()
