"""A component of a user's own file does to itself whatever it likes, and to the run nothing."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reflex_jax.config import ConfigError
from reflex_jax.config_reader import load_config, load_saved_config, save_config
from reflex_jax.rewards.answered import Answered, Failed
from reflex_jax.rewards.user_file import MOST_LOSSES, UserFileError, UserRewards, describe_files
from reflex_jax.text.completion import CompletionShape, parse_completion

TIMEOUT = 1.0
FILE = '''
import ctypes, os, subprocess, sys, time
from reflex_jax.rewards import Failed, batch_reward, reward
import neighbour

kept = []

@reward
def odd(answered, *, factor: float = 1.0, names: tuple[str, ...] = ("a",), most: int | None = None) -> float | None:
    """What to do stands in the answer."""
    do, _, word = (answered.answer or "").partition(" ")
    if do == "number":
        return factor * float(word)
    if do == "none":
        return None
    if do == "bool":
        return word == "yes"
    if do == "fail":
        return Failed("Busy", word)
    if do == "print":
        print(word, flush=True)
        return 1
    if do == "text":
        return "1.0"
    if do == "list":
        return [1.0]
    if do == "raise":
        raise LookupError("no such word\\nsecond line")
    if do == "exit":
        sys.exit("enough")
    if do == "leave":
        os._exit(7)
    if do == "crash":
        ctypes.string_at(0)
    if do == "hang":
        time.sleep(60)
    if do == "spin":
        while True:
            pass
    if do == "child":
        return float(subprocess.Popen(["sleep", "600"]).pid)
    if do == "fork":
        if os.fork() == 0:
            return 0.0  # the child goes on like its parent
        return 1.0
    if do == "forge":
        import json
        from multiprocessing.connection import Connection
        forged = {"request": 0, "results": [0.5], "is_spent": False}
        Connection(os.dup(int(sys.argv[1]))).send_bytes(json.dumps(forged).encode())
        return 0.5
    if do == "leak":
        import numpy
        while True:
            kept.append(numpy.zeros(1 << 30, numpy.uint8))
    if do == "leaked":
        return len(kept)
    if do == "picture":
        return sum(answered.load_image().getpixel((0, 1)))
    if do == "facts":
        return float(answered.metadata["n"] + len(answered.options) + answered.tokens + neighbour.THREE + len(names))

@batch_reward
def spread(rows, *, missing: int = 0):
    return [row.tokens / sum(other.tokens for other in rows) for row in rows][missing:]
'''


def row(do: str, **facts) -> Answered:
    return Answered(question="?", completion="\ud800 x", answer=do, truth="t", answer_type="open", **facts)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rewards")
    (folder / "neighbour.py").write_text("THREE = 3\n")
    (folder / "mine.py").write_text(FILE)
    return str(folder / "mine.py")


@pytest.fixture(scope="module")
def rewards(file):
    rewards = UserRewards([file], timeout=TIMEOUT)
    yield rewards
    rewards.close()


def errors(results):
    return [result.error if isinstance(result, Failed) else result for result in results]


def test_the_options_of_a_reward_are_its_keyword_parameters(rewards):
    described = rewards.describe()
    assert described.keys() == {"odd", "spread"}
    types = {name: (option.type, option.default) for name, option in described["odd"].items()}
    assert types == {"factor": ("float", 1.0), "names": ("tuple[str, ...]", ("a",)), "most": ("int | None", None)}


@settings(max_examples=20)
@given(st.lists(st.none() | st.floats(-1e30, 1e30, allow_subnormal=False), max_size=20))
def test_scores_come_back_to_the_last_digit_and_in_order(rewards, scores):
    rows = [row("none" if score is None else f"number {score!r}") for score in scores]
    assert rewards.score("odd", rows, {"factor": 1.0}) == scores


def test_what_goes_wrong_in_a_row_stays_in_that_row(rewards, capfd):
    rewards.close()  # the next process prints where this test looks
    asked = "number 1, text, raise, list, exit, fail later, number nan, bool yes, print hello, none, facts".split(", ")
    rows = [row(do, metadata={"n": 1}, options=("x", "y"), tokens=4) for do in asked]
    results = rewards.score("odd", rows, {"factor": 2.0, "names": ("a", "b")})
    assert errors(results) == [
        2, "ValueError", "LookupError", "ValueError", "SystemExit", "Busy", "ValueError", 1, 1, None, 12.0
    ]  # fmt: skip
    assert str(results[2]).startswith("LookupError at mine.py:") and str(results[2]).endswith(": no such word")
    out, err = capfd.readouterr()
    assert out == "" and err == "hello\n"  # what it prints is no part of what the run prints


def test_a_process_that_is_lost_fails_one_row_and_the_next_goes_on(rewards):
    rows = [row("number 1"), row("crash"), row("number 2"), row("leave"), row("number 3")]
    results = rewards.score("odd", rows, {})
    assert errors(results) == [1, "ProcessLost", 2, "ProcessLost", 3]
    assert "SIGSEGV" in str(results[1]) and "exit code 7" in str(results[3])


@pytest.mark.parametrize("do", ["hang", "spin"])
def test_a_row_that_takes_too_long_is_given_up(rewards, do):
    results = rewards.score("odd", [row("number 1"), row(do), row("number 2")], {})
    assert errors(results) == [1, "TimeoutError", 2] and "rewards.timeout" in str(results[1])


def test_a_component_that_hangs_for_every_row_ends_in_bounded_time(file):
    rewards = UserRewards([file], timeout=0.2)
    rewards.describe()
    started = time.monotonic()
    results = rewards.score("odd", [row("hang")] * 500, {})
    assert errors(results) == ["TimeoutError"] * MOST_LOSSES + ["ProcessLost"] * (500 - MOST_LOSSES)
    assert time.monotonic() - started < 30
    assert rewards.score("odd", [row("number 1")], {}) == [1]  # the next step starts with a new one
    rewards.close()


def test_memory_that_is_not_given_back_is_lost_with_its_process(file):
    with closing(UserRewards([file], timeout=60, memory=3 << 30)) as rewards:
        full, fresh = errors(rewards.score("odd", [row("leak"), row("leaked")], {}))
    assert "MemoryError" in full and fresh == 0


def test_a_child_that_a_component_forks_answers_nobody(rewards):
    """Its answers would be taken for those to the next questions."""
    found = errors(rewards.score("odd", [row("fork"), row("fork"), row("number 1"), row("text"), row("number 2")], {}))
    assert found[:3] == [1, 1, 1] and found[4] == 2 and isinstance(found[3], str)


def test_an_answer_to_another_question_is_none(rewards):
    """What stays in the connection would be read as the answer to the next."""
    assert errors(rewards.score("odd", [row("forge"), row("number 1"), row("number 2")], {})) == ["ValueError", 1, 2]


@pytest.mark.parametrize(
    "option",
    ["n: int = 1.5", "n: int = True", "n: int = 2**40", "s: str = None", "s: str = ''", "f: float = float('inf')",
     "f: float = '1'", "b: bool = 1", "t: tuple[str, ...] = 'abc'", "d: dict[str, float] = ()", "s: str = 5"],
)  # fmt: skip
def test_a_default_that_a_configuration_cannot_hold_is_refused_by_name(tmp_path, option):
    file = tmp_path / "odd.py"
    file.write_text(f"from reflex_jax.rewards import reward\n@reward\ndef own(a, *, {option}): return 1\n")
    with closing(UserRewards([str(file)], timeout=60)) as rewards, pytest.raises(UserFileError) as caught:
        rewards.describe()
    assert f"own: the default of {option[0]}" in str(caught.value) and "configuration can hold" in str(caught.value)


def test_a_picture_comes_when_it_is_asked_for(rewards):
    picture = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    rows = [row("picture", open_image=lambda: picture), row("picture"), row("picture", open_image=_torn)]
    assert errors(rewards.score("odd", rows, {})) == [6 + 7 + 8, "AttributeError", "OSError"]


def _torn():
    raise OSError("image file is truncated")


def test_a_batch_is_seen_whole_and_fails_whole(rewards):
    rows = [row("", tokens=tokens) for tokens in (1, 3)]
    assert rewards.score("spread", rows, {}) == [0.25, 0.75]
    assert errors(rewards.score("spread", rows, {"missing": 1})) == ["ValueError", "ValueError"]


def _ends_within(seconds: float, pid: int) -> bool:
    for _ in range(int(seconds / 0.05)):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_what_a_component_started_ends_with_it(file):
    rewards = UserRewards([file], timeout=TIMEOUT)
    (child,) = rewards.score("odd", [row("child")], {})
    rewards.close()
    assert _ends_within(5, int(child))


@pytest.mark.parametrize("do", ["number 1", "spin"])
def test_the_process_ends_with_a_run_that_is_killed(file, do):
    """Also while a component is busy."""
    program = (
        "import sys; from reflex_jax.rewards.user_file import UserRewards; from tests.rewards.test_user_file import row\n"
        "rewards = UserRewards(sys.argv[1:2], timeout=60)\n"
        "rewards.describe(); print(rewards._worker._process.pid, flush=True)\n"
        "rewards.score('odd', [row(sys.argv[2])], {}); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, file, do], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        worker = int(run.stdout.readline())
        time.sleep(0.3)
        os.kill(worker, 0)
        run.send_signal(signal.SIGKILL)
    assert _ends_within(5, worker)


def test_the_process_needs_no_array_library():
    program = "import sys, reflex_jax.rewards.user_worker; print({'jax', 'numpy', 'PIL'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"


# --- files that cannot be used, and what a configuration makes of them


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("def short(answered): return 1", ["defines no reward", "@reward"]),
        ("import nowhere_to_be_found", ["cannot be run", "ModuleNotFoundError at my.py:1"]),
        ("def f(:", ["cannot be run", "SyntaxError"]),
        ("import sys; sys.exit(3)", ["cannot be run", "SystemExit"]),
        ("import os; os._exit(3)", ["ended with exit code 3"]),
        ("{R}@reward\ndef f(a, *, x: list = None): return 1", ["f: x has to be annotated", "dict[str, float]"]),
        ("{R}@reward\ndef f(a, x=1, *, y: int): return 1", ["x has to stand behind a *", "y has to", "a default"]),
        ("{R}@reward\ndef f(): return 1", ["f: expected what it scores as the first parameter"]),
        ("{R}@reward\ndef f(a, *, weight=1.0): return 1", ["weight is the name"]),
        ("{R}@reward\ndef answer(a): return 1", ["answer is the name of a reward that ships"]),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "my.py"
    path.write_text(content.replace("{R}", "from reflex_jax.rewards import reward\n"))
    with pytest.raises(ConfigError) as error:
        load_config(None, [f"rewards.files=[{path}]"])
    message = str(error.value)
    assert message.startswith("rewards.files: ") and "\n" not in message and len(message) < 500
    assert all(word in message for word in words), message


def test_two_rewards_of_one_name_and_a_missing_file_are_refused(file, tmp_path):
    (tmp_path / "other.py").write_text("from reflex_jax.rewards import reward\n@reward\ndef odd(a): return 1\n")
    with pytest.raises(UserFileError, match="defines odd, which is there already"):
        describe_files([file, str(tmp_path / "other.py")])
    with pytest.raises(UserFileError, match="none.py: cannot be read"):
        describe_files([str(tmp_path / "none.py")])
    with pytest.raises(UserFileError, match="expected a Python file"):
        (tmp_path / "odd.py").write_bytes(b"\xff\xfe\x00")
        describe_files([str(tmp_path / "odd.py")])


def test_a_component_of_a_file_is_set_like_any_other(file, tmp_path, monkeypatch):
    monkeypatch.chdir(os.path.dirname(file))
    config = load_config(
        None, ["rewards.files=[mine.py]", "rewards.components.odd=0.5", "rewards.components.odd.most=3"]
    )
    component = config.rewards.components["odd"]
    assert (component.weight, component.options) == (0.5, {"factor": 1.0, "names": ("a",), "most": 3})
    assert config.rewards.files == (file,)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(
        f"rewards: {{files: [{os.path.relpath(file, tmp_path)}], components: {{odd: 1}}}}\n"
    )
    monkeypatch.chdir("/")
    assert load_config(tmp_path / "c.yaml").rewards.files == (file,)
    with pytest.raises(ConfigError, match="'factor'") as error:
        load_config(tmp_path / "c.yaml", ["rewards.components.odd.factr=1", "rewards.components.odd.most=x"])
    assert "odd.most: expected a whole number" in str(error.value)


def test_what_a_saved_configuration_names_is_read_back_and_not_run(file, tmp_path):
    config = load_config(None, [f"rewards.files=[{file}]", "rewards.components.odd={factor: 1e-6, names: ['1', x]}"])
    save_config(config, tmp_path / "config.yaml")
    assert load_saved_config(tmp_path / "config.yaml", [f"rewards.files=[{file}]"]) == config
    text = (tmp_path / "config.yaml").read_text()
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    (tmp_path / "config.yaml").write_text(text.replace(file, str(trap)))
    read = load_saved_config(tmp_path / "config.yaml")
    assert read.rewards.components == config.rewards.components and not (tmp_path / "sprung").exists()
    with pytest.raises(ConfigError, match="defines no reward"):
        load_saved_config(tmp_path / "config.yaml", [f"rewards.files=[{trap}]"])
    assert (tmp_path / "sprung").exists()


def test_a_component_sees_the_parts_of_a_completion_as_the_run_reads_them(tmp_path):
    file = tmp_path / "parts.py"
    file.write_text(
        "from reflex_jax.rewards import reward\n\n\n@reward\ndef parts(answered):\n"
        "    return len(answered.parts.thought) + 10 * answered.parts.is_well_formed\n"
    )
    text = "<thinking>four</thinking><answer>x</answer>"
    facts = {"question": "?", "completion": text, "answer": "x", "truth": "x", "answer_type": "open"}
    parsed = parse_completion(text, CompletionShape(thought="thinking"))
    rewards = UserRewards([str(file)], timeout=20.0)
    try:
        results = rewards.score("parts", [Answered(**facts, parsed=parsed), Answered(**facts)], {})
    finally:
        rewards.close()
    assert results[0] == 14 and isinstance(results[1], Failed)  # read as <think>, it has no thought
