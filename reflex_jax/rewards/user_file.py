"""HOST: rewards from a user's own files, run in one process apart, see `user_worker`.

A component that raises, hangs, prints, leaks memory, crashes or returns rubbish fails its own rows and nothing else. A
completion has `timeout` seconds (a batch so many for each row). A process that hangs or dies is ended and another one
started; after `MOST_LOSSES` of them in one step the rest of that component's rows fail at once, so a component costs a step
at most `timeout` for each row and `START_SECONDS` for each start.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from importlib.util import decode_source
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from reflex_jax.rewards.answered import Answered, Failed, Result, attempt, check_score
from reflex_jax.rewards.options import Option

MOST_LOSSES = 3
START_SECONDS = 120  # for the imports of the files, libraries and their models among them
_PACKAGE = Path(__file__).resolve().parents[2]
_SENT = [field.name for field in fields(Answered) if field.name not in ("parsed", "metadata", "open_image")]


class UserFileError(ValueError):
    """A file with rewards that cannot be used; the message names it."""


def describe_files(files: Sequence[str]) -> dict[str, dict[str, Option]]:
    """Name -> options of every reward some files define; they are run for it, in a process that ends here.

    Raises:
      UserFileError: one cannot be read or run, it defines no reward, or two rewards are called the same.
    """
    rewards = UserRewards(files, timeout=START_SECONDS)
    try:
        return rewards.describe()
    finally:
        rewards.close()


class UserRewards:
    """The rewards of some files, and the one process they run in; it is started when it is needed."""

    def __init__(self, files: Sequence[str], *, timeout: float, memory: int = 0):
        """Reads the files, and runs nothing yet; what becomes of them later does not matter.

        Args:
          files: absolute paths.
          timeout: seconds for one completion.
          memory: bytes that the process may have; 0: a quarter of the machine's.
        Raises:
          UserFileError: one cannot be read.
        """
        self._memory = memory
        self._files, self._timeout = [(file, _read(file)) for file in files], timeout
        self._worker: _Worker | None = None

    def describe(self) -> dict[str, dict[str, Option]]:
        """Name -> options of every reward of the files, which are run for it.

        Raises:
          UserFileError: one cannot be run or defines no reward, or two are called the same.
        """
        return {
            name: {key: _read_option(**option) for key, option in reward["options"].items()}
            for name, reward in self._started().rewards.items()
        }

    def score(self, name: str, rows: Sequence[Answered], options: Mapping[str, Any]) -> list[Result]:
        """One result for each row, in bounded time; it does not raise."""
        results: list[Result] = []
        losses = 0
        while len(results) < len(rows):
            if losses == MOST_LOSSES:
                lost = Failed("ProcessLost", f"it was not asked any more: {losses} processes were lost in this step")
                return results + [lost] * (len(rows) - len(results))
            part, answer = self._ask(name, rows[len(results) :], options)
            losses += self._worker is None
            results += answer if isinstance(answer, list) else [answer] * part
        return results

    def close(self) -> None:
        """Ends the process."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _started(self) -> _Worker:
        if self._worker is None:
            self._worker = _Worker(self._files, self._memory)
        return self._worker

    def _ask(
        self, name: str, rows: Sequence[Answered], options: Mapping[str, Any]
    ) -> tuple[int, list[Result] | Failed]:
        """Results of the first row, of a batch for all; how many rows, and why they failed where the process is lost."""
        part = 1
        try:
            worker = self._started()
            part = len(rows) if worker.rewards[name]["kind"] == "batch" else 1
            results, is_spent = worker.ask(name, rows[:part], options, seconds=self._timeout * part)
            if is_spent:
                self.close()
            return part, results
        except UserFileError as error:
            lost = Failed("UserFileError", str(error)[:200])
        except TimeoutError:
            lost = Failed("TimeoutError", f"no answer within {self._timeout:g} s (rewards.timeout)")
        except (EOFError, OSError):
            lost = Failed("ProcessLost", "its process ended" + (f" {self._worker.ending()}" if self._worker else ""))
        except (ValueError, KeyError, TypeError) as error:  # it wrote into the socket itself
            lost = Failed(type(error).__name__, f"its process answered something else ({str(error)[:120]})")
        self.close()
        return part, lost


class _Worker:
    """A process that has read the files."""

    def __init__(self, files: Sequence[tuple[str, str]], memory: int):
        """Starts it with so many bytes of memory, 0: a quarter of the machine's.

        Raises:
          UserFileError: as `UserRewards.describe`.
        """
        names = ", ".join(file for file, _ in files)
        ours, theirs = socket.socketpair()
        path = os.pathsep.join([str(_PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])])
        # the accelerator belongs to the run, so arrays of a component live on the CPU
        environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "reflex_jax.rewards.user_worker", str(theirs.fileno()), str(memory)],
            stdin=subprocess.PIPE, stdout=2, pass_fds=(theirs.fileno(),), env=environment, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self._connection = Connection(ours.detach())
        self._finalizer = weakref.finalize(self, _end, self._process, self._connection)
        try:
            self._send(files)
            answer = self._receive(time.monotonic() + START_SECONDS)
        except TimeoutError as error:
            self.end()
            raise UserFileError(f"{names}: not read within {START_SECONDS} s.") from error
        except (EOFError, OSError) as error:
            ending = self.ending()
            self.end()
            raise UserFileError(f"{names}: the process that read it ended {ending}.") from error
        if "problem" in answer:
            self.end()
            raise UserFileError(answer["problem"])
        self.rewards: dict[str, Any] = answer["rewards"]
        self._requests = 0

    def ask(
        self, name: str, rows: Sequence[Answered], options: Mapping[str, Any], *, seconds: float
    ) -> tuple[list[Result], bool]:
        """Results of some rows, and whether the process had better be replaced.

        Raises:
          TimeoutError: it took too long.
          EOFError, OSError: the process is gone.
          ValueError, KeyError, TypeError: what came is no answer.
        """
        deadline = time.monotonic() + seconds
        self._requests += 1
        plain = [_plain_row(row) for row in rows]
        self._send({"request": self._requests, "name": name, "options": dict(options), "rows": plain})
        while "image" in (answer := self._receive(deadline)):
            self._send_image(rows[answer["image"]])
        if answer["request"] != self._requests:
            raise ValueError(f"the answer to another question, {answer['request']}")
        results = [check_score(Failed(**r) if isinstance(r, dict) else r) for r in answer["results"]]
        if len(results) != len(rows):
            raise ValueError(f"{len(results)} results for {len(rows)} rows")
        return results, answer["is_spent"]

    def ending(self) -> str:
        """How the process ended."""
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return "its connection"
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"

    def end(self) -> None:
        """Kills it and its process group: what it started, but for sessions of their own."""
        self._finalizer()

    def _send(self, message: Any) -> None:
        self._connection.send_bytes(json.dumps(message, default=str).encode())

    def _receive(self, deadline: float) -> dict[str, Any]:
        if not self._connection.poll(max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        answer = json.loads(self._connection.recv_bytes())
        if not isinstance(answer, dict):
            raise ValueError(f"{answer!r}"[:120])
        return answer

    def _send_image(self, row: Answered) -> None:
        image = attempt(row.load_image)
        if isinstance(image, Failed):
            self._send({"problem": image.message})
            return
        self._send({"size": image.size})
        self._connection.send_bytes(image.tobytes())


def _plain_row(row: Answered) -> dict[str, Any]:
    fields = {name: getattr(row, name) for name in _SENT}
    return fields | {
        "parsed": asdict(row.parts),
        "metadata": dict(row.metadata),
        "has_image": row.open_image is not None,
    }


def _read(file: str) -> str:
    try:
        return decode_source(Path(file).read_bytes())
    except OSError as error:
        raise UserFileError(f"{file}: cannot be read ({error.strerror}).") from error
    except (ValueError, SyntaxError) as error:  # not text, or a name with a zero byte
        raise UserFileError(f"{file!r}: expected a Python file ({error}).") from error


def _read_option(type: str, default: Any) -> Option:
    return Option(type, tuple(default) if isinstance(default, list) else default)


def _end(process: subprocess.Popen, connection: Connection) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has ended, and nothing of its own is left
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
    connection.close()
