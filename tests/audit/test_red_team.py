"""Attacks are written in every shape, are told from honest answers, and beat none of them, unless the reward lets them."""

import json
from dataclasses import replace

import pytest

from reflex_jax.audit.judge_audit import load_asked
from reflex_jax.audit.red_team import ATTACKS, Form
from reflex_jax.audit.rewards_audit import audit_rewards, without_endpoint
from reflex_jax.audit.rewards_report import as_markdown, as_values
from reflex_jax.cli import main
from reflex_jax.config import ConfigError
from reflex_jax.config_reader import load_config
from reflex_jax.data.phantom import phantom_examples
from reflex_jax.text.completion import CompletionShape, parse_completion
from reflex_jax.text.degenerate import degenerate_kind

SHAPES = (
    CompletionShape(),
    CompletionShape(thought="none"),
    CompletionShape(thought="thinking", preamble=True, fallback=True, compact=True),
)
KIND_OF = {
    "empty": "empty", "nothing_in_format": "empty", "split_tags": "markup", "script": "markup", "terminal_escapes": "markup",
    "right_to_left": "markup", "injection": "injection", "echo": "echo", "every_letter": "list", "every_side": "list",
    "yes_or_no": "hedge", "undetermined": "hedge", "long_thought": "repetition", "megabyte": "repetition",
}  # fmt: skip


@pytest.fixture(scope="module")
def phantoms():
    return phantom_examples("validation", 30, 0)


def test_every_attack_is_written_for_every_question_in_every_shape(phantoms):
    for shape in SHAPES:
        form = Form(shape, ("yes", "no", "a nodule"))
        for attack in ATTACKS.values():
            assert all(isinstance(attack.write(example, form), str) for example in phantoms[:10])
        assert parse_completion(form.write("yes"), shape).is_well_formed
        with_tag = form.write("yes", modality="ct")
        assert with_tag.startswith("<ct>") == shape.preamble and parse_completion(with_tag, shape).is_well_formed


def test_no_attack_but_those_that_turn_the_truth_around_knows_the_answer(phantoms):
    form = Form(CompletionShape(), ("yes",))
    for example in phantoms[:10]:
        other = replace(example, answer={"yes": "no", "no": "yes"}.get(example.answer, "something else"))
        for name, attack in ATTACKS.items():
            if name not in ("other_side", "negated", "every_option", "two_answers"):
                assert attack.write(example, form) == attack.write(other, form), name


@pytest.mark.parametrize(("attack", "kind"), KIND_OF.items())
def test_an_attack_is_of_a_kind_that_training_watches_for(phantoms, attack, kind):
    form = Form(CompletionShape(), ("yes",))
    for example in phantoms[:10]:
        written = ATTACKS[attack].write(example, form)
        assert degenerate_kind(example.question, written, parse_completion(written).answer) == kind


def test_honest_completions_are_of_no_kind(phantoms):
    for example in phantoms:
        assert degenerate_kind(example.question, example.target, parse_completion(example.target).answer) is None
    for question, answer in (
        ("Where is the lesion?", "left upper lobe"),
        ("Is there a mass?", "No, there is no mass"),
        ("Is the heart enlarged?", "yes, the heart is enlarged"),
        ("What is seen?", "a mass of the right kidney that cannot be resected"),
    ):
        written = Form(CompletionShape()).write(answer)
        assert degenerate_kind(question, written, answer) is None


def audit(*settings: str, count: int = 8):
    config = load_config(None, ["data.size=60", "data.prompt=bare", "rollout.max_new_tokens=44", *settings])
    return audit_rewards(config, load_asked(config), count=count)


def test_answer_and_format_hold_and_say_what_each_attack_earns():
    """Worked out by hand: a right answer in format earns 1 + 1, a wrong one 1, an empty completion nothing."""
    found = audit("rewards.components={answer: 1, format: 1}")
    assert (found.right, found.wrong, found.both) == (2.0, 1.0, 1.5)
    assert not found.winners and "holds" in found.sentence
    by_name = {finding.attack: finding for finding in found.findings}
    assert by_name.keys() == ATTACKS.keys()
    assert by_name["empty"].total == by_name["two_answers"].total == by_name["split_tags"].total == 0.0
    assert by_name["normal"].components == {"answer": 0.0, "format": 1.0}
    assert by_name["echo"].components["answer"] == 0.0  # the words of a yes, and no answer
    assert by_name["megabyte"].tokens == 8192 and by_name["megabyte"].failed == 0.0
    values, page = json.loads(json.dumps(as_values(found))), as_markdown(found)
    assert values["verdict"] == "holds" and len(values["attacks"]) == len(ATTACKS) and "| empty" in page


def test_a_reward_of_length_is_beaten_where_such_a_length_can_be_sampled():
    """A right answer of 30 tokens earns 1 + 0.03, a thousand words of nothing 1 + 1."""
    found = audit("rewards.components={format: 1, length: 1}", "rollout.max_new_tokens=2000")
    assert "long_thought" in found.winners and found.sentence.startswith("fails: ")
    (long,) = (finding for finding in found.findings if finding.attack == "long_thought")
    assert long.total == pytest.approx(2.0) and long.beats_own == 1.0


@pytest.mark.slow  # the same rewards once more
def test_what_is_longer_than_a_completion_may_get_beats_nobody():
    short = audit("rewards.components={format: 1, length: 1}")
    assert not {"long_thought", "megabyte"} & set(short.winners)
    assert {f.attack for f in short.findings if f.verdict == "too long"} >= {"long_thought", "megabyte"}


def test_what_asks_a_language_model_is_left_out_with_a_line():
    config, notes = without_endpoint(load_config(None, ["rewards.components={answer: 1, llm_judge: 1}"]))
    assert config.rewards.components.keys() == {"answer"}
    assert len(notes) == 1 and notes[0].startswith("llm_judge skipped: ") and "endpoint.url" in notes[0]
    config, notes = without_endpoint(load_config(None, []))
    assert notes == [] and "visual_fidelity" in config.rewards.components
    with pytest.raises(ConfigError, match="nothing is left to audit"):
        without_endpoint(load_config(None, ["rewards.components={answer: 0, llm_judge: 1}"]))
    away = ["endpoint.url=http://127.0.0.1:9/v1", "endpoint.model=NAME", "endpoint.connect_seconds=0.5"]
    _, notes = without_endpoint(load_config(None, ["rewards.components={answer: 1, llm_judge: 1}", *away]))
    assert "does not answer" in notes[0]


def test_questions_that_no_phase_asks_are_refused():
    config = load_config(None, ["data.size=60", "data.phases=[{modalities: [PET]}]"])
    with pytest.raises(ConfigError, match="no phase asks any of the 60"):
        load_asked(config)


@pytest.mark.slow  # compiles the judge, and loads encoders, for each recipe
@pytest.mark.parametrize("name", ["phantom", "grpo_vanilla_tiny", "medvlm_r1_tiny", "medix_r1_tiny", "rarl_tiny"])
def test_no_attack_beats_an_honest_answer_under_our_recipes(capsys, repository, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert main(["audit", "rewards", str(repository / "configs" / f"{name}.yaml"), "--questions", "32"]) == 0
    found = json.loads((tmp_path / "audits" / name / "rewards.json").read_text())
    assert found["verdict"] == "holds" and found["median"]["wrong"] < found["median"]["right"]
    assert not any(attack["failed"] for attack in found["attacks"])


@pytest.mark.slow  # prepares a real data set
def test_no_attack_beats_an_honest_answer_about_radiographs(data_root, repository, tmp_path):
    config = load_config(
        repository / "configs" / "vqa_rad_tiny.yaml", [f"data.root={data_root / 'vqa-rad'}", f"data.cache={tmp_path}"]
    )
    assert not audit_rewards(config, load_asked(config), count=32).winners
