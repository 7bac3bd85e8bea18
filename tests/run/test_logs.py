"""metrics.jsonl and samples.jsonl survive interruptions; TensorBoard and wandb follow; compilations are counted."""

import json
import resource
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflex_jax.config import ConfigError
from reflex_jax.run.logs import CompilationCounter, RunLogger
from reflex_jax.stops import SAVE_FAILED, RunStopped


def open_logger(directory, resume_step=0, **options):
    return RunLogger(directory, resume_step=resume_step, **({"tensorboard": False, "wandb_project": None} | options))


def _refuse(constant):
    raise ValueError(f"{constant} is not JSON")


def rows_of(path):
    text = path.read_bytes().decode("utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line, parse_constant=_refuse) for line in text.split("\n")[:-1]]


def test_one_line_per_step_readable_at_once(tmp_path):
    logger = open_logger(tmp_path)
    logger.log(1, {"phase": "closed", "loss": 0.5, "tokens": 7, "reward": jnp.float32(1.5), "count": np.int64(3)})
    assert rows_of(tmp_path / "metrics.jsonl") == [
        {"step": 1, "phase": "closed", "loss": 0.5, "tokens": 7, "reward": 1.5, "count": 3}
    ]
    logger.samples(1, [{"completion": 'é\u2028\n"x"', "scores": [1.0, np.float32(0.5)]}, {"completion": "b"}])
    assert rows_of(tmp_path / "samples.jsonl") == [
        {"step": 1, "completion": 'é\u2028\n"x"', "scores": [1.0, 0.5]},
        {"step": 1, "completion": "b"},
    ]
    logger.close()


def test_numbers_that_are_not_finite_become_null_and_are_named(tmp_path):
    logger = open_logger(tmp_path)
    logger.log(1, {"loss": float("nan"), "kl": jnp.float32(jnp.inf), "reward": 1.0})
    logger.samples(1, [{"scores": {"iou": [0.5, float("-inf")]}}])
    logger.close()
    assert rows_of(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": None, "kl": None, "reward": 1.0, "not_finite": {"loss": "nan", "kl": "inf"}}
    ]
    assert rows_of(tmp_path / "samples.jsonl") == [
        {"step": 1, "scores": {"iou": [0.5, None]}, "not_finite": {"scores.iou.1": "-inf"}}
    ]


@settings(max_examples=20)
@given(text=st.text(max_size=40))
def test_any_text_is_one_valid_line(text, tmp_path_factory):
    directory = tmp_path_factory.mktemp("text")
    logger = open_logger(directory)
    logger.samples(3, [{"completion": text}])
    logger.samples(4, [{"completion": text + "\udc80"}])  # a lone surrogate
    logger.close()
    assert rows_of(directory / "samples.jsonl") == [
        {"step": 3, "completion": text}, {"step": 4, "completion": text + "\udc80"}
    ]  # fmt: skip


@given(
    save_every=st.integers(1, 4),
    interruptions=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40)), max_size=4),
)
def test_every_step_is_there_exactly_once_however_often_it_is_interrupted(save_every, interruptions, tmp_path_factory):
    """Each attempt runs some steps, dies in the middle of writing the next, and resumes from the last checkpoint."""
    directory, last = tmp_path_factory.mktemp("run"), 12
    checkpoint = 0
    for steps, torn_bytes in [*interruptions, (last, None)]:
        logger = open_logger(directory, resume_step=checkpoint)
        for step in range(checkpoint + 1, min(checkpoint + steps, last) + 1):
            logger.log(step, {"loss": 1 / step})
            logger.samples(step, [{"row": 0}, {"row": 1}])
            checkpoint = step if step % save_every == 0 else checkpoint
        logger.close()
        if torn_bytes is not None:
            for name in ("metrics.jsonl", "samples.jsonl"):
                with (directory / name).open("ab") as file:
                    file.write(b'{"step": 99, "loss": 0.25, "phase": "closed"}'[:torn_bytes])
    assert [row["step"] for row in rows_of(directory / "metrics.jsonl")] == list(range(1, last + 1))
    samples = [(row["step"], row["row"]) for row in rows_of(directory / "samples.jsonl")]
    assert samples == [(step, row) for step in range(1, last + 1) for row in (0, 1)]


def test_rows_that_stand_keep_their_bytes(tmp_path):
    logger = open_logger(tmp_path)
    for step in range(1, 6):
        logger.log(step, {"loss": step / 3})
    logger.close()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    open_logger(tmp_path, resume_step=5).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    open_logger(tmp_path, resume_step=3).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"\n".join(before.split(b"\n")[:3]) + b"\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "samples.jsonl"]
    open_logger(tmp_path, resume_step=0).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


BROKEN = [
    b"{broken",
    b"[1]",
    b'{"loss": 1}',
    b'{"step": "one"}',
    b'{"step": true}',
    b"\0\0\0",
    b"\xff",
    b"",
    b"[" * 99999,
]


@pytest.mark.parametrize("line", BROKEN)
@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_a_broken_row_between_others_is_named(tmp_path, name, line):
    path = tmp_path / name
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(ConfigError, match=f"{name}, line 2: expected a JSON object with a step") as error:
        open_logger(tmp_path, resume_step=3)
    assert path.read_bytes().count(b"\n") == 3 and "\n" not in str(error.value)


@pytest.mark.parametrize("line", BROKEN)
def test_broken_rows_at_the_end_are_removed_and_said(tmp_path, capsys, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + line + b"\n" + line + b"\n" + line)
    open_logger(tmp_path, resume_step=3).close()
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'
    message = capsys.readouterr().err
    assert (
        "broken lines removed at its end: 2. The last whole one is of step 2, the run goes on after step 3" in message
    )


@pytest.mark.parametrize("tensorboard", [False, True])
def test_a_full_disk_stops_the_run_with_the_step_and_leaves_files_that_can_be_continued(tmp_path, tensorboard):
    logger = open_logger(tmp_path, tensorboard=tensorboard)
    logger.log(1, {"loss": 0.5})
    logger.samples(1, [{"completion": "a"}])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "metrics.jsonl").stat().st_size + 8, limits[1]))
    try:
        with pytest.raises(
            RunStopped, match="the metrics of step 2 could not be written to .* checkpoints .* stand"
        ) as stop:
            logger.log(2, {"loss": 0.5})
        assert stop.value.code == SAVE_FAILED and "\n" not in str(stop.value)
        with pytest.raises(RunStopped, match="the samples of step 2"):
            logger.samples(2, [{"completion": "b" * 99}])
        logger.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    logger = open_logger(tmp_path, resume_step=1)
    logger.log(2, {"loss": 0.25})
    logger.close()
    assert [row["loss"] for row in rows_of(tmp_path / "metrics.jsonl")] == [0.5, 0.25]
    assert rows_of(tmp_path / "samples.jsonl") == [{"step": 1, "completion": "a"}]


def test_a_full_disk_under_the_events_alone_stops_the_run_too(tmp_path):
    logger = open_logger(tmp_path, tensorboard=True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(RunStopped, match="the metrics of step"):
            for step in range(1, 30):  # an event carries more bytes than its row
                logger.log(step, {f"{'name' * 9}{k}": 1 for k in range(5)})
        logger.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_files_that_cannot_be_opened_are_one_line(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(ConfigError, match="metrics.jsonl: cannot be written") as error:
        open_logger(tmp_path, resume_step=1)
    assert "\n" not in str(error.value)


def test_steps_rise_and_names_are_free(tmp_path):
    logger = open_logger(tmp_path)
    logger.log(0, {"accuracy": 0.5})
    logger.log(1, {"accuracy": 0.5})
    with pytest.raises(ValueError, match="expected a step above 1, the last one written; got 1"):
        logger.log(1, {"accuracy": 0.5})
    with pytest.raises(ValueError, match="step cannot be the name of a value"):
        logger.log(2, {"step": 3})
    with pytest.raises(TypeError, match="expected numbers and strings; got something else for a, b"):
        logger.log(2, {"a": np.zeros(2), "b": None, "c": 1.0})
    logger.close()
    assert [row["step"] for row in rows_of(tmp_path / "metrics.jsonl")] == [0, 1]
    resumed = open_logger(tmp_path, resume_step=1)
    with pytest.raises(ValueError, match="expected a step above 1"):
        resumed.log(1, {"accuracy": 0.5})
    resumed.close()


def tensorboard_events(directory):
    """All events of a folder: TFRecord frames (length, crc, bytes, crc) of protocol buffers."""
    from tensorboardX.proto.event_pb2 import Event

    events = []
    for path in sorted(directory.glob("events.*")):
        content, position = path.read_bytes(), 0
        while position < len(content):
            length = int.from_bytes(content[position : position + 8], "little")
            events.append(Event.FromString(content[position + 12 : position + 12 + length]))
            position += 16 + length
    return events


def test_tensorboard_receives_the_numbers(tmp_path):
    logger = open_logger(tmp_path, tensorboard=True)
    for step in (1, 2, 3):
        logger.log(step, {"phase": "closed", "reward/total": step / 4})
    logger.close()
    scalars = [
        (event.step, value.tag, value.simple_value)
        for event in tensorboard_events(tmp_path / "tensorboard")
        for value in event.summary.value
    ]
    assert scalars == [(1, "reward/total", 0.25), (2, "reward/total", 0.5), (3, "reward/total", 0.75)]


def test_tensorboard_hides_the_steps_that_are_written_again(tmp_path):
    open_logger(tmp_path, tensorboard=True, resume_step=2).close()
    starts = [e.step for e in tensorboard_events(tmp_path / "tensorboard") if e.HasField("session_log")]
    assert 3 in starts


def test_tensorboard_does_not_import_torch(tmp_path):
    program = (
        "import sys\n"
        "from reflex_jax.run.logs import RunLogger\n"
        f"logger = RunLogger({str(tmp_path)!r}, tensorboard=True, wandb_project=None, resume_step=0)\n"
        "logger.log(1, {'loss': 0.5})\n"
        "logger.close()\n"
        "heavy = {'torch', 'torchvision', 'tensorflow', 'wandb', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_absent_wandb_is_one_clear_line_and_touches_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n')
    with pytest.raises(ConfigError, match=r"wandb_project=p needs .* pip install 'reflex_jax\[wandb\]'") as error:
        open_logger(tmp_path, wandb_project="p")
    assert "\n" not in str(error.value)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1}\n'


def test_wandb_continues_the_run_of_the_folder(tmp_path, monkeypatch):
    calls = []

    class Run:
        def log(self, values, step):
            calls.append((step, dict(values)))

        def finish(self):
            calls.append("finish")

    def init(**options):
        calls.append(options)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for resume_step in (0, 1):
        logger = open_logger(tmp_path / "name", resume_step=resume_step, wandb_project="p")
        logger.log(resume_step + 1, {"loss": 0.5, "phase": "open"})
        logger.close()
    first, logged, finished, second, *_ = calls
    assert (first["project"], first["name"], first["resume"]) == ("p", "name", "allow")
    assert first["id"] == second["id"]
    assert logged == (1, {"loss": 0.5, "phase": "open"}) and finished == "finish"


def test_compilations_are_counted():
    inputs = [jnp.arange(length, dtype=jnp.float32) for length in (3, 4)]
    counter = CompilationCounter()
    function = jax.jit(lambda x: x * 3 + 1)
    function(inputs[0]).block_until_ready()
    assert counter.read() == 1
    function(inputs[0]).block_until_ready()
    assert counter.read() == 0
    function(inputs[1]).block_until_ready()  # a new shape
    assert counter.total == 2 and counter.read() == 1 and counter.read() == 0
    counter.close()
    function(jax.device_put(np.zeros(5, np.float32))).block_until_ready()
    assert counter.total == 2
