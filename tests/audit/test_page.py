"""The page of a run: its numbers are those of the files, and what a model wrote is nothing but text on it."""

import base64
import dataclasses
import hashlib
import html.parser
import json
import re

import numpy as np
import pytest

from reflex_jax.audit.page import as_inert_json, render
from reflex_jax.audit.page_build import Wanted, build_page
from reflex_jax.audit.page_figures import running_mean
from reflex_jax.audit.page_run import share_means
from reflex_jax.audit.page_samples import LONGEST_SHOWN, spread
from reflex_jax.audit.replay import chain_faults, heads_of_checkpoints
from reflex_jax.cli import main
from reflex_jax.evidence.chain import Head
from reflex_jax.evidence.log import EvidenceLog
from reflex_jax.evidence.reader import EVIDENCE_FILE, read_evidence
from reflex_jax.run.directory import load_run_config
from reflex_jax.text.visible import visible_text
from tests.recorded_run import record_run

HOSTILE = [
    "<script>document.title='owned'</script><img src=x onerror=alert(1)>",
    "</script><script>document.title='owned'</script>",
    "\x1b[31mred\x1b[0m \x1b]0;owned\x07",
    "right to left \u202eesrever\u2066 zero\u200bwidth \ud800",
    "{{ 7 * 7 }} {% raw %} &lt;b&gt; \u2028",
    "<answer>" + "A" * 1_000_000 + "</answer>",
]


class Tags(html.parser.HTMLParser):
    """What a browser would find."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes, self.scripts = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "script" and self.cdata_elem == "script":
            self.scripts.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return record_run(tmp_path_factory.mktemp("page") / "run", texts=HOSTILE)


@pytest.fixture(scope="module")
def page(run):
    return build_page([load_run_config(run, [])], Wanted(attention=0), say=pytest.fail)


def data_of(page: str) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_every_answer_of_the_evidence_is_there_with_its_numbers(run, page):
    data = data_of(render(page))
    recorded = [(found.group, answer) for found in read_evidence(run) for answer in found.group.answers]
    assert len(data["answers"]) == len(recorded) == 32
    for shown, (group, answer) in zip(data["answers"], recorded, strict=True):
        same = {
            "id": answer.id, "iou": answer.iou, "chance": answer.chance_corrected_iou, "stt": answer.text_text_similarity,
            "sit": answer.image_text_similarity, "reward": answer.reward, "advantage": answer.advantage,
            "mask": group.statement_of(answer).mask,
        }  # fmt: skip
        assert {name: shown[name] for name in same} == same
        assert shown["components"] == {n: dataclasses.asdict(score) for n, score in answer.components.items()}
        of_group = data["groups"][shown["group"]]
        assert (of_group["id"], of_group["mask"]) == (group.id, group.statements[0].mask)
        outcome = "failed" if not answer.is_valid else "right" if answer.is_correct else "wrong"
        assert shown["outcome"] == outcome


def test_the_table_of_metrics_holds_what_metrics_jsonl_holds(run, page):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (table,) = page.sections[0].tables
    assert table.columns == ["metric", "first tenth", "last tenth", "last step"]
    shown = {row[0].text: [cell.value for cell in row[1:]] for row in table.rows}
    assert shown["kl"] == [repr(rows[0]["kl"]), repr(rows[-1]["kl"]), repr(rows[-1]["kl"])]
    assert shown["pass_rate/visual_fidelity/wrong"][0] is None  # the first step has no number there
    assert shown.keys() == {name for row in rows for name, value in row.items() if isinstance(value, float)}
    assert share_means(range(1, 21)) == (1.5, 19.5)
    np.testing.assert_allclose(running_mean([1, float("nan"), 3, 5], 3), [1, 2, 4, 4])


def test_what_a_model_wrote_is_text_and_nothing_else(page):
    content = render(page)
    found = Tags(content)
    assert found.tags.count("script") == 2 and not [name for name in found.attributes if name.startswith("on")]
    assert "<img src=x" not in content and "document.title" not in "".join(found.scripts[1:])
    assert "\x1b" not in content and "\u202e" not in content
    answers = data_of(content)["answers"]
    assert answers[0]["completion"] == HOSTILE[0]
    assert answers[2]["completion"].startswith("\u2039U+001B\u203a[31mred")
    assert "\u2039U+202E\u203aesrever" in answers[3]["completion"] and "\u2039U+D800\u203a" in answers[3]["completion"]
    assert len(answers[5]["completion"]) == LONGEST_SHOWN and answers[5]["cut"] == len(HOSTILE[5])
    assert len(content) < 600_000


def test_the_policy_of_the_page_lets_one_script_run_and_nothing_be_fetched(page):
    content = render(page)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', content)[1].replace("&#39;", "'")
    rules = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"
    for kind, pattern in (("script", r"<script>(.*?)</script>"), ("style", r"<style>(.*?)</style>")):
        (inside,) = re.findall(pattern, content, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"
    assert "style" not in Tags(content).attributes  # the policy would drop it


def test_a_picture_and_a_second_run_are_shown_when_asked_for(run, tmp_path):
    other = record_run(tmp_path / "other", steps=2)
    said = []
    configs = [load_run_config(place, []) for place in (run, other)]
    both = build_page(configs, Wanted(attention=0, images=True, most=20), say=said.append)
    data = data_of(render(both))
    assert {group["run"] for group in data["groups"]} == {"run", "other"}
    assert len(data["answers"]) <= 20
    assert all(address.startswith("data:image/") for address in data["pictures"].values())
    assert data["pictures"].keys() == {group["picture"] for group in data["groups"]}
    (table,) = both.sections[0].tables
    assert [column.split(":")[0] for column in table.columns[1:]] == ["run"] * 3 + ["other"] * 3
    without = build_page(configs[:1], Wanted(attention=0, images=False), say=said.append)
    assert not without.data["pictures"] and any("--images" in line for line in without.sample_lines)


def test_a_chain_that_was_changed_is_told_on_the_page(run, tmp_path):
    changed = record_run(tmp_path / "changed", steps=1)
    path = changed / EVIDENCE_FILE
    content = path.read_bytes()
    assert main(["audit", "run", str(changed), "--attention", "0"]) == 0
    assert "3 lines, whole" in (changed / "report.html").read_text()
    (changed / "evidence.head.json").write_text("{}")
    assert main(["audit", "run", str(changed), "--attention", "0"]) == 0
    assert "NOT AS IT WAS WRITTEN: head" in (changed / "report.html").read_text()
    path.write_bytes(content.replace(b'"advantage":0.0', b'"advantage":1.0', 1))


def test_a_run_without_evidence_shows_its_samples(tmp_path, capsys):
    run = record_run(tmp_path / "run", steps=2)
    (run / EVIDENCE_FILE).unlink()
    row = {
        "id": "q", "question": "Where?", "true_answer": "left", "completion": "<answer>left</answer>", "parsed_answer": "left",
        "statement": "it is left", "anchor_statement": "it is left", "tokens": 3, "failure": None, "reward": 2.0,
        "advantage": 0.5, "reward/answer": 1.0, "reward/format": None,
    }  # fmt: skip
    rows = [{"step": 1, **row}, {"step": 1, **row, "reward/answer": 0.0}, {"step": 2, **row}]
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["audit", "run", str(run)]) == 0
    assert "3 answers, 0 pictures" in capsys.readouterr().out
    data = data_of((run / "report.html").read_text())
    assert [answer["outcome"] for answer in data["answers"]] == ["right", "wrong", "right"]
    assert [answer["id"] for answer in data["answers"]] == ["1/0/0", "1/0/1", "2/1/0"]
    assert data["answers"][0]["components"]["format"] == {"score": 0.0, "applies": False, "margins": {}}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "'nowhere': expected a run directory"),
        (["RUN", "--samples", "0"], "--samples: expected at least 1; got 0"),
        (["RUN", "--attention", "-1"], "--attention: expected at least 0; got -1"),
        (["RUN", "--audits", "RUN/nowhere"], "--audits: expected a folder"),
        (["RUN", "--against", "nowhere"], "'nowhere': expected a run directory"),
        (["RUN", "--to", "RUN/config.yaml/x.html", "--attention", "0"], "--to: "),
    ],
)
def test_wrong_arguments_are_told_in_a_line(run, capsys, arguments, words):
    assert main(["audit", "run", *[text.replace("RUN", str(run)) for text in arguments]]) == 2
    message = capsys.readouterr().err.strip()
    assert words in message and "\n" not in message


def test_metrics_that_are_none_are_named_with_their_line(tmp_path, capsys):
    run = record_run(tmp_path / "run", steps=1)
    whole = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(whole + "nonsense\n" + whole)
    assert main(["audit", "run", str(run), "--attention", "0"]) == 2
    assert "metrics.jsonl, line 2" in capsys.readouterr().err
    (run / "metrics.jsonl").write_text(whole + whole[:20])  # cut off by a machine that died
    assert main(["audit", "run", str(run), "--attention", "0"]) == 0


def test_groups_are_taken_at_even_distances_and_whole():
    assert spread([4] * 5, 100) == [0, 1, 2, 3, 4]
    assert spread([4] * 10, 20) == [1, 3, 5, 7, 9]
    assert spread([8], 3) == [0]
    for most in range(1, 40):
        chosen = spread([3, 1, 7, 2, 5, 4, 6], most)
        assert chosen == sorted(set(chosen)) and chosen[-1] == 6
        assert sum([3, 1, 7, 2, 5, 4, 6][place] for place in chosen) <= max(most, 6)


def test_inert_json_reads_back_and_holds_no_mark_of_html():
    value = {"<a>&": ["</script>", "\u2028", "é", None, 0.1]}
    text = as_inert_json(value)
    assert json.loads(text) == value and not set("<>&\u2028é") & set(text)
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_inert_json({"a": float("nan")})


def test_visible_text_leaves_words_alone_and_spells_out_what_hides():
    assert visible_text("naïve 肺 \t\n x² 😀", 100) == "naïve 肺 \t\n x² 😀"
    assert visible_text("a\x00b\x9bc\u200bd\U000e0041", 100) == "a‹U+0000›b‹U+009B›c‹U+200B›d‹U+E0041›"
    assert visible_text("abcdef", 3) == "abc"


def test_a_group_that_lost_an_answer_is_named_though_its_chain_was_written_anew(tmp_path):
    """Nobody vouches for the head here: no checkpoint is left."""
    run = record_run(tmp_path / "run", steps=2)
    records = [json.loads(line)["record"] for line in (run / EVIDENCE_FILE).read_bytes().splitlines()]
    del records[1]["answers"][3]
    (run / EVIDENCE_FILE).unlink()
    log = EvidenceLog(run, head=Head(), step=0, is_writing=True)
    log.append(1, records)
    log.close()
    assert [str(fault) for fault in chain_faults(run)] == ["line 2: it has 3 answers, and its batch 4 to each question"]
    assert heads_of_checkpoints(run) == {}


def test_the_page_of_a_run_that_imitates_speaks_of_no_reward(tmp_path):
    run = record_run(tmp_path / "run", steps=1)
    (run / EVIDENCE_FILE).unlink()
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
    page = build_page([load_run_config(run, [])], Wanted(), say=pytest.fail)
    facts = dict(page.facts)
    assert facts["reward"] == "none: it imitates target completions" and not {"judge", "evidence"} & facts.keys()
    assert page.sample_lines == ["None: a run that imitates samples nothing."]
    assert "loss" in render(page)
