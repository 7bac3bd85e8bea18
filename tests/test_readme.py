"""What the documents say works is executed: every command, shortened by settings; every path, link, setting and function exists.

The documents are the README, the manuals under docs/ and CONTRIBUTING.md. A command that is new in one of them fails here
until it is listed with the way it is executed.
"""

import configparser
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import reflex_jax
from reflex_jax.cli import make_parser
from reflex_jax.config import Component, Config, RewardsConfig
from reflex_jax.config_reader import load_config
from reflex_jax.rewards.answered import Answered
from reflex_jax.rewards.components import REWARDS
from reflex_jax.rewards.user_file import UserRewards
from tests.test_architecture import PATHS, _imported_files, _room

REPOSITORY = Path(__file__).resolve().parent.parent


def read(*patterns: str) -> dict[str, str]:
    """Path inside the repository -> text, of all documents that match."""
    paths = [path for pattern in patterns for path in sorted(REPOSITORY.glob(pattern))]
    return {path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8") for path in paths}


DOCUMENTS = read("README.md", "CONTRIBUTING.md", "docs/*.md")
WITH_LINKS = DOCUMENTS | read("CHANGELOG.md", "benchmarks/*.md")
README = DOCUMENTS["README.md"]
PROGRAMS = ("reflex", "bash", "pip", "pytest", "python", "ruff", "sbatch", "kubectl")

TINY = "grpo.prompts_per_step=8 grpo.group_size=2 rollout.max_new_tokens=6 logging.progress=false"
PHANTOM = f"{TINY} training.steps=2 training.evaluate_every=0 data.size=64"
FEW = "training.evaluation_questions=8 rollout.max_new_tokens=6"

# --- how each command is executed

# by the walk below, in this order, with these settings after it
WALKED = {
    "bash launch/quickstart.sh": f"{PHANTOM} evidence.every=1",
    "reflex evaluate runs/quickstart": FEW,
    "reflex evaluate runs/quickstart --blank-image": FEW,
    "reflex audit run runs/quickstart": "",
    "reflex table modalities runs/quickstart": "",
    "reflex evaluate RUN --probe real,blank,shuffled,other_patient --samples 0": FEW,
    "reflex train configs/phantom.yaml run.name=mine grpo.group_size=4 rewards.components.visual_fidelity=0": f"{PHANTOM} "
    "grpo.group_size=4 training.steps=200 training.save_every=200 grpo.prompts_per_step=2 rollout.max_new_tokens=2",
    "reflex train configs/phantom.yaml grpo.preset=dapo grpo.clip_high=0.25": f"{PHANTOM} run.name=dapo",
    "reflex train configs/phantom.yaml run.name=adapted policy.lora.rank=8 optimizer.learning_rate=1e-4": PHANTOM,
    "reflex export runs/adapted --to DIR": "",
    "reflex export runs/adapted --to DIR --layout peft": "",
    "reflex export runs/mine --to DIR": "",
    "reflex export runs/mine --to DIR --step 200 --dtype float32 --shard-size 2": "",
    "reflex replay runs/quickstart": "",
    "bash launch/local.sh --processes 2 configs/phantom.yaml training.steps=6": f"{PHANTOM} run.name=two training.steps=6",
    "reflex train configs/vqa_rad_tiny.yaml data.root=/data/vqa-rad training.steps=4": TINY,
    "reflex train configs/slake_tiny.yaml data.root=/data/slake training.steps=4": TINY,
    "reflex data check configs/slake_tiny.yaml data.root=/data/slake": "",
    "reflex audit judge configs/phantom.yaml": "--questions 40",
    "reflex audit rewards configs/phantom.yaml": "--questions 16",
    "reflex audit rewards configs/medix_r1_tiny.yaml --questions 16": "",
    "reflex audit judge configs/slake_tiny.yaml data.root=/data/slake --questions 100": "",
    "reflex train configs/mixture_tiny.yaml data.root=/data training.steps=4": TINY,
    "reflex data check configs/mixture_tiny.yaml data.root=/data --exclude-leaks leaks.txt": "",
    "reflex plan configs/reflex_med_7b.yaml memory.microbatch_prompts=32": "",
}  # fmt: skip
# by something else, which does the same with other paths or a stand-in for the machine: the file, and what of it stands there
ELSEWHERE = {
    "reflex train configs/phantom.yaml 'rewards.files=[my_rewards.py]' rewards.components.short=0.5": (
        "tests/training/test_faults.py", "rewards.components.short=0.5"),
    "reflex train configs/phantom.yaml rewards.components.llm_judge=0.5 endpoint.url=http://localhost:8000/v1 "
    "endpoint.model=NAME": ("tests/training/test_llm_judge.py", "def test_a_judge_that_is_killed_and_comes_back"),
    "reflex evaluate RUN training.evaluation_questions=0": (
        "tests/test_cli.py", "def test_evaluate_prints_greedy_and_sampled_scores_also_without_seeing"),
    "reflex evaluate DIR data.root=/data/slake --config configs/slake_tiny.yaml --to OUT": (
        "tests/evaluation/test_sets.py", "def test_a_policy_without_a_run_is_evaluated_on_several_sets"),
    "reflex evaluate DIR data.source=slake data.root=/data/slake --to OUT --stage score --verdicts verdicts.jsonl": (
        "tests/evaluation/test_answers_on_disk.py", "def test_answers_are_judged_and_the_verdicts_stand_in_the_table"),
    "reflex compare A B": ("tests/evaluation/test_paper_tables.py", "def test_a_comparison_is_paired_and_by_pictures"),
    "reflex table sets ours=runs/full/evaluation/test-step-100 base=OUT --to tables": (
        "tests/evaluation/test_sets.py", "def test_two_checkpoints_become_a_table"),
    "reflex table ablations full=A no_vfr=B no_bpr=C": (
        "tests/evaluation/test_paper_tables.py", "def test_the_commands_print_and_draw"),
    "reflex table modalities mri=A ct=B xray=C --to tables": (
        "tests/evaluation/test_paper_tables.py", "def test_columns_of_modalities_and_a_metric_of_choice"),
    "reflex judge OUT/answers.jsonl endpoint.url=http://localhost:8000/v1 endpoint.model=NAME --template base "
    "--to verdicts.jsonl": (
        "tests/evaluation/test_answers_on_disk.py", "def test_answers_are_judged_and_the_verdicts_stand_in_the_table"),
    "reflex evaluate RUN endpoint.url=URL": (
        "tests/training/test_llm_judge.py", "def test_a_run_directory_alone_sends_nothing_anywhere"),
    "reflex replay runs/phantom": ("tests/audit/test_replay.py", "def test_everything_comes_out_again_bit_for_bit"),
    "reflex replay runs/phantom --step 40": ("tests/audit/test_replay.py", "def test_a_selection_replays_only_that"),
    "reflex replay runs/phantom --answer 40/1/2": (
        "tests/audit/test_replay.py", "def test_an_answer_is_explained_in_words"),
    "reflex evaluate RUN evidence.every=1 evidence.groups=0": (
        "tests/evaluation/test_evidence_of_a_run.py", "def test_an_evaluation_of_a_run_is_replayed_bit_for_bit"),
    "reflex replay RUN/evaluation/test-step-100": (
        "tests/evaluation/test_evidence_of_a_run.py", "def test_an_evaluation_of_a_run_is_replayed_bit_for_bit"),
    "reflex replay RUN judge.path=DIR policy.path=DIR data.root=DIR": (
        "tests/audit/test_replay.py", "def test_the_models_may_lie_elsewhere"),
    "reflex judge predictions.jsonl endpoint.url=http://localhost:8000/v1 endpoint.model=NAME --template base "
    "--to verdicts.jsonl": ("tests/evaluation/test_judge_answers.py", "def test_the_command_judges_a_file"),
    "bash launch/test.sh": (".ci/run", "exec bash launch/test.sh"),  # this is the command that runs the tests
    "bash launch/test.sh -k judge": ("launch/test.sh", 'python -m pytest -q --durations=40 "$@"'),
    "bash launch/test.sh -m slow": ("launch/test.sh", 'python -m pytest -q --durations=40 "$@"'),
    "reflex data check CONFIG data.source=NAME data.root=DIR": ("tests/dataset_card/test_check.py", '"data", "check"'),
    "reflex data check CONFIG": ("tests/dataset_card/test_check.py", '"data", "check"'),
    "ruff format .": ("launch/test.sh", "ruff format --check ."),
    "ruff check .": ("launch/test.sh", "ruff check ."),
    "reflex train configs/reflex_med_7b.yaml policy.path=DIR judge.path=DIR data.root=DIR": (
        "tests/run/test_export.py", "policy.path={start}/policy\", f\"judge.path={start}/judge"),
    "reflex train configs/reflex_med_3b.yaml policy.lora.rank=8 optimizer.learning_rate=1e-5 grpo.prompts_per_step=16 "
    "memory.microbatch_prompts=4 mesh.preset=1-gpu policy.path=DIR judge.path=DIR data.root=DIR": (
        "tests/planning/test_memory.py", "def test_the_setting_for_a_card_of_40_gb_has_room_there"),
    "reflex plan configs/reflex_med_7b.yaml --topology v5p:4x4x4": (
        "tests/planning/test_plan.py", "def test_the_tpu_compiler_plans_a_slice"),
    "reflex plan configs/reflex_med_7b.yaml --topology v5e:2x2": (
        "tests/planning/test_plan.py", 'find_topology("v5e:2x2")'),
    "reflex plan configs/reflex_med_NAME.yaml --topology SLICE": (
        "tests/planning/test_plan.py", "def test_the_tpu_compiler_plans_a_slice"),
    "sbatch --nodes=2 --gpus-per-node=8 launch/slurm.sbatch CONFIG key=value": (
        "tests/launch/test_slurm.py", "def test_two_nodes_train_together"),
    "bash launch/tpu_pod.sh --name NAME --zone ZONE --dry-run CONFIG key=value": (
        "tests/launch/test_scripts.py", "def test_tpu_pod_prints_the_commands_it_would_run"),
    "kubectl apply -f launch/kubernetes.yaml": (
        "tests/launch/test_scripts.py", "def test_the_manifest_follows_the_schema"),
    "python -m reflex_jax.phantom --judge": (
        "tests/phantom/test_phantom_assets.py", "def test_judge_points_at_the_lesion_it_reads_about"),
    "python benchmarks/lengths.py": ("tests/benchmarks/test_lengths.py", "def test_padded_slots_are_those_of_the_arrays"),
    "python benchmarks/does_grounding_pay.py": (  # the README's numbers are those of its file
        "tests/benchmarks/test_does_grounding_pay.py", "def test_the_readme_says_what_was_measured"),
    "python benchmarks/four_papers.py": ("tests/benchmarks/test_four_papers.py", "def test_all_papers_are_scored_by_one"),
    "python benchmarks/memory_table.py": ("tests/benchmarks/test_memory_table.py", "memory_table.main()"),
    "python benchmarks/phantom_learning.py": (  # its picture, with the numbers of the table
        "benchmarks/phantom_learning.py", "phantom_learning.png"),
}  # fmt: skip


def without_blocks(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def code_spans(text: str) -> list[str]:
    """What is set as code in sentences and tables."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", without_blocks(text))]


def commands(text: str) -> list[str]:
    """Every command of the bash blocks (what stands before the comment), and every one set as code in a sentence."""
    blocks = [block for kind, block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL) if kind in ("", "bash")]
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    found = [re.sub(r"\s+#.*", "", text).strip() for text in lines + code_spans(text)]
    # `reflex train` in a sentence is a name, not a command to type
    return [text for text in found if re.match(rf"({'|'.join(PROGRAMS)}) \S+", text) and len(text.split()) > 2
            or text.startswith(("bash ", "pytest ", "python "))]  # fmt: skip


def is_installation(command: str) -> bool:
    return command.startswith("pip install")


def is_check(command: str) -> bool:
    return command.startswith("pytest")


COMMANDS = list(dict.fromkeys(command for text in DOCUMENTS.values() for command in commands(text)))


def write_own_reward(file: Path) -> str:
    """Writes the ten lines of the README; returns their section and what follows."""
    section = README[README.index("## Your own reward") :]
    file.write_text(re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1))
    return section


def test_every_command_is_executed_somewhere():
    told = {command for command in COMMANDS if not is_installation(command) and not is_check(command)}
    assert told == WALKED.keys() | ELSEWHERE.keys()
    for place, words in ELSEWHERE.values():
        assert words in (REPOSITORY / place).read_text(encoding="utf-8"), f"{place} has no more {words}"


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("reflex ")])
def test_every_command_has_words_and_settings_that_exist(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_own_reward(tmp_path / "my_rewards.py")
    if "NAME" in command:
        command = command.replace("NAME", "3b").replace("SLICE", "v5e:4x4")
    options = make_parser().parse_args(shlex.split(command)[1:])
    if options.command in ("train", "plan"):
        load_config(REPOSITORY / options.config, ["data.root=DIR", *options.overrides])


@pytest.mark.parametrize("command", [c for c in COMMANDS if is_installation(c)])
def test_every_extra_exists(command):
    settings = configparser.ConfigParser()
    settings.read(REPOSITORY / "setup.cfg")
    for extra in re.findall(r"\[(\w+)\]", command):
        assert extra in settings["options.extras_require"]


@pytest.mark.parametrize("command", [c for c in COMMANDS if is_check(c)])
def test_every_check_of_a_guarantee_selects_tests(command):
    """`-m slow` where the file has slow tests, and none where it has others."""
    path = REPOSITORY / command.split()[-1]
    texts = [p.read_text() for p in ([path] if path.is_file() else sorted(path.glob("test_*.py")))]
    assert texts and any("def test_" in text for text in texts)
    if "-m slow" in command:
        assert any("mark.slow" in text for text in texts), f"{command}: nothing there is slow"


# --- what the documents name


@pytest.mark.parametrize("document", WITH_LINKS)
def test_every_path_exists(document):
    written = {line.rstrip("/") for line in (REPOSITORY / ".gitignore").read_text().splitlines()}  # by commands
    tops = {path.name for path in REPOSITORY.iterdir()} - written
    for span in code_spans(WITH_LINKS[document]):
        if re.fullmatch(r"[\w./*-]+", span) and "/" in span and span.split("/")[0] in tops:
            assert any(REPOSITORY.glob(span.rstrip("/"))), span


def anchors(text: str) -> set[str]:
    """The headings of a document as links name them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", WITH_LINKS)
def test_every_link_leads_somewhere(document):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_blocks(WITH_LINKS[document])):
        if link.startswith(("http://", "https://")):
            continue
        place, _, heading = link.partition("#")
        target = (REPOSITORY / document).parent / place if place else REPOSITORY / document
        assert target.exists(), link
        assert not heading or heading in anchors(target.read_text(encoding="utf-8")), link


def is_setting(parts: list[str]) -> bool:
    """Whether a configuration has this key; of a list its entries' keys, of a mapping its names."""
    own = {"short": Component(options={"longest": 20})}  # the README's example
    shipped = {
        name: Component(options={key: option.default for key, option in reward.options.items()})
        for name, reward in REWARDS.items()
    }
    value: Any = Config(rewards=RewardsConfig(components=shipped | own))
    for part in parts:
        if isinstance(value, Component) and part in value.options:
            value = value.options
        value = value[0] if isinstance(value, tuple) and value else value
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif is_dataclass(value) and part in {f.name for f in fields(value)}:
            value = getattr(value, part)
        else:
            return False
    return True


def is_code(parts: list[str]) -> bool:
    """Whether the package has this module, class, function or constant."""
    thing: Any = reflex_jax
    for part in parts:
        is_package = isinstance(thing, ModuleType) and hasattr(thing, "__path__")
        if is_package and importlib.util.find_spec(f"{thing.__name__}.{part}"):
            thing = importlib.import_module(f"{thing.__name__}.{part}")
        elif hasattr(thing, part):
            thing = getattr(thing, part)
        else:
            return False
    return True


FILE_ENDINGS = {"py", "json", "jsonl", "yaml", "safetensors"}
FIRST_WORDS = {f.name for f in fields(Config)} | {_room(name).removesuffix(".py") for name in PATHS}


def dotted_names(text: str) -> list[list[str]]:
    """`judge.evidence.Judge`, `grpo.kl_clamp=5`, `data.phases[].replay` in parts; the first is a room or a section."""
    found = []
    for span in code_spans(text):
        name = re.match(r"(?:reflex_jax\.)?(\w+(?:\.\w+)+)(?=$|[=:(])", re.sub(r"\[\d*\]", "", span))
        parts = name.group(1).split(".") if name else []
        if parts and parts[0] in FIRST_WORDS and parts[-1] not in FILE_ENDINGS:
            found.append(parts)
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_module_function_and_setting_exists(document):
    gone = {
        ".".join(parts) for parts in dotted_names(DOCUMENTS[document]) if not is_setting(parts) and not is_code(parts)
    }
    assert not gone
    in_blocks = re.findall(r"(?<![\w.])([a-z]+(?:\.[a-z_]+)+)=", DOCUMENTS[document])
    sections = {f.name for f in fields(Config)}
    assert not {key for key in in_blocks if key.split(".")[0] in sections and not is_setting(key.split("."))}


@pytest.mark.parametrize(
    "text, exists",
    [("`grpo.kl_clamp=5`", True), ("`grpo.kl_clam=5`", False), ("`data.phases[].replay`", True),
     ("`data.phases[0].replays`", False), ("`rewards.components.answer`", True), ("`rewards.components.answers`", False),
     ("`reflex_jax.step.update.scored_update`", True), ("`training.step.make_train_step`", False),
     ("`step.bridge.HostBridge`", True), ("`config.MESH_PRESETS`", True), ("`phantom.witness`", False)],
)  # fmt: skip
def test_a_name_that_is_gone_is_seen(text, exists):
    (parts,) = dotted_names(text)
    assert (is_setting(parts) or is_code(parts)) == exists


def test_every_function_of_the_equation_table_exists():
    table = README[README.index("| paper | function | test |") :]
    rows = [row.split("|")[2] for row in table[: table.index("\n\n")].splitlines()[2:]]
    assert len(rows) >= 11
    for row in rows:
        first, *others = re.findall(r"`([\w.]+)`", row)
        for name in (first, *others):  # a bare name is of the module before it
            parts = name.split(".") if "." in name else [*first.split(".")[:-1], name]
            assert is_code(parts), name


def test_what_moved_is_where_the_changelog_says():
    text = WITH_LINKS["CHANGELOG.md"]
    rows = text[text.index("| before | now |") :].partition("\n\n")[0].splitlines()[2:]
    for row in rows:
        _, before, now, _ = row.split("|")
        (old,) = re.findall(r"`([\w.]+)`", before)
        assert not is_code(old.split(".")), f"{old} is still there"
        new = [name for name in re.findall(r"`([\w.]+)`", now) if "." in name]
        assert new and all(is_code(name.split(".")) for name in new), row


def test_a_reward_of_your_own_works_as_the_readme_says(tmp_path):
    """The ten lines are run, under the override that stands below them."""
    file = tmp_path / "my_rewards.py"
    section = write_own_reward(file)
    command = re.search(r"```bash\n(.*?)```", section, re.DOTALL).group(1)
    overrides = re.findall(r"(rewards\.[\w.]+=\S+?)'?(?=\s)", command)
    config = load_config(None, [override.replace("my_rewards.py", str(file)) for override in overrides])
    options = config.rewards.components["short"].options
    rows = [
        Answered(question="?", completion="", answer=answer, truth="yes", answer_type="closed", tokens=tokens)
        for answer, tokens in (("yes", options["longest"]), ("no", options["longest"] + 1), (None, 3))
    ]
    rewards = UserRewards(config.rewards.files, timeout=config.rewards.timeout)
    assert rewards.score("short", rows, options) == [1.0, 0.0, None]
    rewards.close()


def test_every_manual_is_in_the_readme_and_no_sentence_stands_twice():
    assert all(f"]({name})" in README for name in DOCUMENTS if name != "README.md")
    prose = [line for text in DOCUMENTS.values() for line in without_blocks(text).split("\n\n")]
    sentences = [s for part in prose for s in re.split(r"(?<=[.;:])\s", " ".join(part.split())) if len(s) > 80]
    assert not [sentence for sentence, count in Counter(sentences).items() if count > 1]


# --- the tree


def tree() -> dict[str, list[str]]:
    """What the README's tree names: at the top (""), as rooms of the package, and as modules of a room."""
    (block,) = re.findall(r"```\n(reflex_jax/ .*?)```", README, re.DOTALL)
    named: dict[str, list[str]] = {"": []}
    above = ["", "", ""]
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        for name in re.split(r"\s{2,}", line.strip())[0].split():
            named.setdefault("".join(above[:depth]), []).append(name)
            above[depth:] = [name] + [""] * (2 - depth)
    return named


def test_the_tree_names_every_room_and_none_that_is_gone():
    named = tree()
    assert sorted(named["reflex_jax/"]) == sorted(
        {_room(name) + ("/" if "/" in name else "") for name in PATHS} - {"__init__.py"}
    )
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    folders = {name.split("/")[0] + "/" for name in listed.splitlines() if "/" in name and not name.startswith(".")}
    assert set(named[""]) == folders
    for place in named.keys() - {"", "reflex_jax/"}:
        for module in named[place]:
            assert (REPOSITORY / place / f"{module}.py").is_file(), f"{place}{module}"


def test_imports_go_down_the_list_of_the_tree():
    place = {name.rstrip("/"): number for number, name in enumerate(tree()["reflex_jax/"])}
    assert not [
        f"{name} imports {file}, which stands above it"
        for name in PATHS
        for file in _imported_files(name)
        if place.get(_room(name), -1) > place[_room(file)]
    ]


# --- the walk


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The files of the repository without what runs have left in it."""
    folder = tmp_path_factory.mktemp("clone") / "reflex_jax"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((REPOSITORY / name).read_bytes())
        target.chmod((REPOSITORY / name).stat().st_mode)
    return folder


@pytest.mark.slow
def test_the_commands_work_one_after_the_other(clone, data_root, tmp_path):
    """Five minutes on two cores; more where the 7B plan fits and is compiled."""
    environment = {
        **os.environ, "PYTHONPATH": str(clone), "XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu",
        "REFLEX_COMMAND": f"{sys.executable} -m reflex_jax.cli", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    environment.pop("XLA_FLAGS", None)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for label, folder in (("vqa_rad", "vqa-rad"), ("slake", "slake"), ("path_vqa", "formats/path-vqa-hf")):
        (mixed / label).symlink_to(data_root / folder)
    for number, (command, settings) in enumerate(WALKED.items()):
        line = (
            command.replace("/data/", f"{data_root}/")
            .replace("=/data", f"={mixed}")
            .replace("DIR", f"exported-{number}")
            .replace(" RUN ", " runs/quickstart ")
        )
        words = shlex.split(f"{line} {settings}")
        modules = {"reflex": "reflex_jax.cli", "ruff": "ruff"}
        if words[0] in modules:
            words = [sys.executable, "-m", modules[words[0]], *words[1:]]
        ended = subprocess.run(words, cwd=clone, env=environment, capture_output=True, text=True, check=False)
        # a plan says with 5 that this machine is too small for the 7B recipe
        expected = (0, 5) if command.startswith("reflex plan") else (0,)
        if command.startswith("reflex audit judge configs/slake"):
            expected = (6,)  # as the sentence beside it says
        assert ended.returncode in expected, f"{' '.join(words)}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
        assert "Traceback" not in ended.stderr
    for name in ("metrics.jsonl", "samples.jsonl", "evidence.jsonl", "config.yaml", "report.html"):
        assert (clone / "runs" / "quickstart" / name).is_file()
    mine = [json.loads(line) for line in (clone / "runs" / "mine" / "metrics.jsonl").read_text().splitlines()]
    assert {"reward/format", "reward/answer", "reward/provenance"} <= mine[-1].keys()
    assert mine[-1]["step"] == 200
    exports = {
        number: "peft" in command for number, command in enumerate(WALKED) if command.startswith("reflex export")
    }
    assert len(exports) == 4
    for number, is_adapter in exports.items():
        assert (clone / f"exported-{number}" / ("adapter_config.json" if is_adapter else "config.json")).is_file()
