"""The launch scripts: clean shell, refusals of one line, what each process gets, how a group of processes ends."""

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch", *Path(__file__).parent.glob("*.sh")])

# Stands for `reflex`: writes down what it was given, then does what its number is told to.
FAKE_REFLEX = """
import json, os, signal, sys, time
number = os.environ.get("REFLEX_PROCESS_ID")
told = json.loads(os.environ["TOLD"])[int(number)]
def say(line):  # in one write: with PYTHONUNBUFFERED, print's line break is another, and another process may come between
    os.write(1, (line + "\\n").encode())
def save(*_):
    say("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, signal.SIG_IGN if told == "hang" else save if told == "wait" else signal.SIG_DFL)
with open(os.environ["NOTES"] + "/" + number, "w") as file:
    json.dump({"arguments": sys.argv[1:], "pid": os.getpid(), **os.environ}, file)
say(f"process {number} starts")
if told in ("wait", "hang"):
    time.sleep(60)
while len(os.listdir(os.environ["NOTES"])) < int(os.environ["REFLEX_PROCESSES"]):
    time.sleep(0.1)  # the others listen to signals before this one ends
if told == 3 and number == "0":  # another was lost: seen at once, before its parent looks
    time.sleep(0.2)
    with open(os.environ["NOTES"] + "/1") as file:
        stat = f"/proc/{json.load(file)['pid']}/stat"
    while os.path.exists(stat) and ") Z" not in open(stat).read():
        pass
    os._exit(3)
time.sleep(0.5)
sys.exit(told)
"""


# --- the scripts as text


def shellcheck(path: Path) -> subprocess.CompletedProcess:
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert program, "shellcheck not found: pip install -e '.[dev]' brings it"
    return subprocess.run([program, path.name], cwd=path.parent, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_clean(path):
    subprocess.run(["bash", "-n", path], check=True)
    result = shellcheck(path)
    assert result.returncode == 0, result.stdout


def test_an_unquoted_variable_would_be_found(tmp_path):
    script = tmp_path / "wrong.sh"
    script.write_text("#!/usr/bin/env bash\nrm $1\n")
    assert "SC2086" in shellcheck(script).stdout


# --- refusals


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("local.sh configs/phantom.yaml", "expected --processes N"),
        ("local.sh --processes 2", "expected a configuration"),
        ("local.sh --processes two configs/phantom.yaml", "--processes: expected a whole number >= 1, got 'two'"),
        ("local.sh --devices-per-process", "--devices-per-process: expected a whole number >= 1, got ''"),
        ("local.sh --nodes 2 configs/phantom.yaml", "--nodes: expected --processes N or --devices-per-process K"),
        ("tpu_pod.sh configs/phantom.yaml", "expected --name TPU"),
        ("tpu_pod.sh --name", "--name: expected a value"),
        ("tpu_pod.sh --name --setup", "--name: expected a value"),
        ("tpu_pod.sh --name pod", "expected a configuration"),
        ("tpu_pod.sh --name pod --slice 2", "--slice: expected --name, --zone"),
        ("tpu_pod.sh --name pod configs/phantom.yaml", "expected gcloud"),
        ("slurm.sbatch configs/phantom.yaml", "expected to run inside a job"),
    ],
)
def test_what_is_missing_is_said_in_one_line(command, words, tmp_path):
    for tool in ("bash", "dirname"):  # and no gcloud
        (tmp_path / tool).symlink_to(shutil.which(tool))
    script, *arguments = command.split()
    environment = {"PATH": str(tmp_path), "REFLEX_COMMAND": "false"}
    result = subprocess.run(
        ["bash", LAUNCH / script, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2, result
    assert result.stderr.startswith(f"launch/{script}: {words}") and result.stderr.count("\n") == 1


# --- environment.sh


MIMALLOC = Path(sysconfig.get_path("platlib"), "cmeel.prefix", "lib", "libmimalloc.so.3")


@pytest.mark.skipif(sys.platform != "linux", reason="what is preloaded is read from /proc, and on Linux alone")
@pytest.mark.parametrize(
    ("wanted", "delay"),
    [
        ({}, "3600000"),
        ({"LD_PRELOAD": str(MIMALLOC)}, "3600000"),
        ({"MIMALLOC_PURGE_DELAY": "5"}, "5"),
        ({"REFLEX_ALLOCATOR": "system"}, None),
    ],
    ids=["default", "preloaded already", "another delay", "system"],
)
def test_commands_run_with_the_allocator_that_keeps_what_is_freed(wanted, delay):
    outside = {
        k: v
        for k, v in os.environ.items()
        if k not in ("LD_PRELOAD", "REFLEX_ALLOCATOR") and not k.startswith("MIMALLOC")
    }
    outside |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "REFLEX_COMMAND": "reflex"}
    source = f"source {LAUNCH}/environment.sh ''"
    look = (
        "import os; print('libmimalloc' in open('/proc/self/maps').read(), "
        "os.environ.get('LD_PRELOAD', '').count('mimalloc'), os.environ.get('MIMALLOC_PURGE_DELAY'))"
    )
    is_there = delay is not None
    found = subprocess.run(
        ["bash", "-c", f'{source}; {source}; python -c "{look}"'], env=outside | wanted,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (found.stdout, found.stderr) == (f"{is_there} {int(is_there)} {delay}\n", "")  # once, though sourced twice


def test_another_allocator_is_refused_in_one_line():
    environment = os.environ | {"REFLEX_ALLOCATOR": "tcmalloc", "REFLEX_COMMAND": "reflex"}
    found = subprocess.run(
        ["bash", LAUNCH / "quickstart.sh"], env=environment, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (2, "REFLEX_ALLOCATOR: expected mimalloc or system, got 'tcmalloc'.\n")


# --- local.sh


@pytest.fixture
def local(tmp_path):
    """Starts local.sh over the fake `reflex`; `told` says for each process its exit code, "wait" or "hang"."""
    (tmp_path / "fake_reflex.py").write_text(FAKE_REFLEX)
    (tmp_path / "notes").mkdir()
    started = []

    def start(told: list[int | str], *options: str, **environment: str | None) -> subprocess.Popen:
        variables = os.environ | {"NOTES": str(tmp_path / "notes"), "TOLD": json.dumps(told)}
        variables |= {"REFLEX_COMMAND": f"{sys.executable} {tmp_path / 'fake_reflex.py'}", "CUDA_VISIBLE_DEVICES": ""}
        variables = {name: value for name, value in (variables | environment).items() if value is not None}
        command = ["bash", LAUNCH / "local.sh", "--processes", str(len(told)), *options]
        started.append(
            subprocess.Popen(
                [*command, "configs/phantom.yaml", "training.steps=6", "run.name=two words"],
                env=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                # a job of a shell script ignores Ctrl-C, and so would all that it starts
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def notes(tmp_path: Path, processes: int) -> list[dict]:
    """What each process was given, once all have written it down."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            return [json.loads((tmp_path / "notes" / str(i)).read_text()) for i in range(processes)]
        except (FileNotFoundError, json.JSONDecodeError):
            time.sleep(0.05)
    raise AssertionError(f"not all of {processes} processes started within 20 s")


def is_alive(process_id: int) -> bool:
    try:
        return (Path("/proc") / str(process_id) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_each_process_gets_its_number_and_all_get_one_address(local, tmp_path):
    process = local([0, 0, 0], "--devices-per-process", "4")
    output, _ = process.communicate(timeout=30)
    given = notes(tmp_path, 3)
    assert process.returncode == 0
    assert [note["REFLEX_PROCESS_ID"] for note in given] == ["0", "1", "2"]
    assert {note["REFLEX_PROCESSES"] for note in given} == {"3"}
    assert {note["JAX_NUM_CPU_DEVICES"] for note in given} == {"4"}
    (address,) = {note["REFLEX_COORDINATOR"] for note in given}
    assert re.fullmatch(r"127\.0\.0\.1:2\d{4}", address)
    assert all(
        note["arguments"] == ["train", "configs/phantom.yaml", "training.steps=6", "run.name=two words"]
        for note in given
    )
    assert sorted(output.splitlines()) == ["[1] process 1 starts", "[2] process 2 starts", "process 0 starts"]


@pytest.fixture
def three_gpus(tmp_path) -> str:
    """A PATH on which nvidia-smi lists three GPUs."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nprintf '0\\n1\\n2\\n'\n")
    program.chmod(0o755)
    return f"{program.parent}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("visible", "options", "shares"),
    [
        (None, [], ["0", "1"]),  # the third is left over
        ("7,5,GPU-3a,MIG-9", [], ["7,5", "GPU-3a,MIG-9"]),
        ("7,5,3,1", ["--devices-per-process", "1"], ["7", "5"]),
    ],
)
def test_gpus_are_split(local, tmp_path, three_gpus, visible, options, shares):
    assert local([0, 0], *options, PATH=three_gpus, CUDA_VISIBLE_DEVICES=visible).wait(timeout=30) == 0
    assert [note["CUDA_VISIBLE_DEVICES"] for note in notes(tmp_path, 2)] == shares


@pytest.mark.parametrize(("told", "options"), [([0] * 4, []), ([0] * 2, ["--devices-per-process", "2"])])
def test_too_few_gpus_are_refused(local, three_gpus, told, options):
    process = local(told, *options, PATH=three_gpus, CUDA_VISIBLE_DEVICES=None)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2 and "need more than the 3 here" in errors


@pytest.mark.parametrize(
    ("told", "code"), [(["wait", 3], 3), ([2, "wait", "wait"], 2), ([75, "wait"], 75), ([3, 1], 1)]
)
def test_one_that_fails_ends_the_others_with_its_code(local, tmp_path, told, code):
    process = local(told)
    output, _ = process.communicate(timeout=15)
    assert process.returncode == code
    assert output.count("saved") == told.count("wait")
    assert not any(is_alive(note["pid"]) for note in notes(tmp_path, len(told)))


def test_one_that_is_killed_ends_others_that_do_not_listen(local, tmp_path):
    process = local(["hang", "wait"])
    first, second = notes(tmp_path, 2)
    os.kill(second["pid"], signal.SIGKILL)
    assert process.wait(timeout=25) == 128 + signal.SIGKILL
    assert not is_alive(first["pid"])


@pytest.mark.parametrize(
    "send",
    [
        lambda process: process.send_signal(signal.SIGTERM),  # to the script alone, as a scheduler does
        lambda process: os.killpg(process.pid, signal.SIGINT),  # to the group, as the terminal does at Ctrl-C
    ],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_a_signal_reaches_every_process_and_all_save(local, tmp_path, send):
    process = local(["wait", "wait", "wait"])
    given = notes(tmp_path, 3)
    send(process)
    output, _ = process.communicate(timeout=15)
    assert process.returncode == 75
    assert sorted(line for line in output.splitlines() if "saved" in line) == ["[1] saved", "[2] saved", "saved"]
    assert not any(is_alive(note["pid"]) for note in given)


def test_a_second_ctrl_c_ends_them_at_once(local, tmp_path):
    process = local(["hang", "hang"])
    notes(tmp_path, 2)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.5)
    assert process.wait(timeout=5) == 128 + signal.SIGKILL


# --- tpu_pod.sh

GCLOUD = "gcloud compute tpus tpu-vm"
WHERE = "--worker=all --zone=us-east5-a --project=lab"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["configs/phantom.yaml", "run.dir=/mnt/runs/a", "data.phases=[{answer_type: any}]"],
            [f"{GCLOUD} ssh pod {WHERE} '--command=cd reflex_jax && REFLEX_PROCESSES=auto exec .venv/bin/reflex train "
             r"configs/phantom.yaml run.dir=/mnt/runs/a '\''data.phases=[{answer_type: any}]'\'''"],
        ),
        (
            ["--setup"],
            [f"tar -czf /tmp/reflex_jax.tar.gz --exclude=./.venv --exclude=./runs --exclude=./.git -C {LAUNCH.parent} .",
             f"{GCLOUD} scp /tmp/reflex_jax.tar.gz pod:reflex_jax.tar.gz {WHERE}",
             f"{GCLOUD} ssh pod {WHERE} '--command=mkdir -p reflex_jax && tar -xzf reflex_jax.tar.gz -C reflex_jax && "
             "PYTHON=python3.11 && source reflex_jax/launch/environment.sh tpu'"],
        ),
        (
            ["sft", "configs/phantom.yaml"],
            [f"{GCLOUD} ssh pod {WHERE} '--command=cd reflex_jax && REFLEX_PROCESSES=auto exec .venv/bin/reflex sft "
             "configs/phantom.yaml'"],
        ),
        (["--stop"], [rf"{GCLOUD} ssh pod {WHERE} '--command=pkill -TERM -f '\''[r]eflex (train|sft|evaluate)'\'''"]),
    ],
    ids=["train", "setup", "sft", "stop"],
)  # fmt: skip
def test_tpu_pod_prints_the_commands_it_would_run(arguments, expected):
    command = ["bash", LAUNCH / "tpu_pod.sh", "--name", "pod", "--zone", "us-east5-a", "--project", "lab", "--dry-run"]
    environment = os.environ | {"PYTHON": "python3.11", "TMPDIR": "/tmp"}
    result = subprocess.run(command + arguments, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == expected


def test_tpu_pod_runs_what_it_prints(tmp_path):
    """A stand-in for gcloud runs --command as a worker's shell would: the quoting survives two shells."""
    worker = tmp_path / "worker"
    reflex = worker / "reflex_jax" / ".venv" / "bin" / "reflex"
    reflex.parent.mkdir(parents=True)
    reflex.write_text('#!/bin/sh\nprintf "%s|" "$PWD" "$REFLEX_PROCESSES" "$@"\n')
    gcloud = tmp_path / "gcloud"
    gcloud.write_text(
        f'#!/usr/bin/env bash\ncd {worker}\nfor word; do case $word in --command=*) bash -c "${{word#*=}}";; esac; done\n'
    )
    reflex.chmod(0o755)
    gcloud.chmod(0o755)
    overrides = ["data.phases=[{answer_type: any}]", "run.name=it's $HOME; done"]
    command = ["bash", LAUNCH / "tpu_pod.sh", "--name", "pod"]
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    options = {"env": environment, "capture_output": True, "text": True, "check": True}
    printed = subprocess.run([*command, "--dry-run", "configs/phantom.yaml", *overrides], **options).stdout
    expected = "|".join([str(worker / "reflex_jax"), "auto", "train", "configs/phantom.yaml", *overrides, ""])
    assert subprocess.run([*command, "configs/phantom.yaml", *overrides], **options).stdout == expected
    assert subprocess.run(["bash", "-c", printed], **options).stdout == expected


# --- kubernetes.yaml


@pytest.fixture(scope="module")
def manifest() -> dict[str, dict]:
    """Kind -> document."""
    documents = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text(encoding="utf-8"))
    return {document["kind"]: document for document in documents}


@pytest.mark.parametrize("version", ["1.31", "1.37"])
@pytest.mark.parametrize("kind", ["Service", "PersistentVolumeClaim", "Job"])
def test_the_manifest_follows_the_schema(manifest, kind, version):
    assert kubernetes_validate.validate(manifest[kind], version, strict=True) == version


def _misspelt(job: dict) -> None:
    job["spec"]["completionsMode"] = job["spec"].pop("completionMode")


def _number_as_environment(job: dict) -> None:
    job["spec"]["template"]["spec"]["containers"][0]["env"][1]["value"] = 2


def _rule_without_action(job: dict) -> None:
    del job["spec"]["podFailurePolicy"]["rules"][0]["action"]


@pytest.mark.parametrize("change", [_misspelt, _number_as_environment, _rule_without_action])
def test_a_changed_manifest_is_refused(manifest, change):
    job = copy.deepcopy(manifest["Job"])
    change(job)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.31", strict=True)


def test_the_parts_of_the_manifest_fit_together(manifest):
    job, service, claim = manifest["Job"], manifest["Service"], manifest["PersistentVolumeClaim"]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    host, _, port = environment["REFLEX_COORDINATOR"].partition(":")
    assert host == f"{job['metadata']['name']}-0.{service['metadata']['name']}" and port.isdigit()
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    assert int(environment["REFLEX_PROCESSES"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert pod["restartPolicy"] == "Never"  # what the API server asks of a Job with a podFailurePolicy


def test_wrong_input_fails_the_job_and_preemption_costs_no_try(manifest):
    rules = manifest["Job"]["spec"]["podFailurePolicy"]["rules"]
    (container,) = manifest["Job"]["spec"]["template"]["spec"]["containers"]
    actions: dict[int, str] = {}
    for rule in rules:
        codes = rule.get("onExitCodes", {"values": [], "containerName": container["name"], "operator": "In"})
        assert (codes["containerName"], codes["operator"]) == (container["name"], "In")
        for code in codes["values"]:
            actions.setdefault(code, rule["action"])
    assert actions == {2: "FailJob", 4: "FailJob", 75: "Ignore"}
    assert manifest["Job"]["spec"]["backoffLimit"] >= 3 * manifest["Job"]["spec"]["completions"]
