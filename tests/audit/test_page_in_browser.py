"""The page in a real browser: it opens at once, is filtered and walked through, and nothing a model wrote runs.

Needs a Chromium (Debian: chromium; else CHROMIUM=PATH) and `pip install -e '.[browser]'`; slow, as starting it is.
"""

import json
import os
import shutil
import time

import pytest

from reflex_jax.audit.page_samples import LONGEST_SHOWN
from reflex_jax.cli import main
from reflex_jax.evidence.reader import read_evidence
from reflex_jax.text.visible import visible_text
from tests.audit.test_page import HOSTILE
from tests.recorded_run import record_run

pytestmark = pytest.mark.slow  # a browser

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
]  # fmt: skip
LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[browser]'")
    if CHROMIUM is None:
        pytest.skip("no Chromium: install the package chromium, or set CHROMIUM to one")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens a file in a window without network; gives the page, what it complained of, and seconds until it was ready."""
    contexts = []

    def visit(path, size=LAPTOP, anchor=""):
        context = browser.new_context(viewport=size, offline=True)
        contexts.append(context)
        page, complaints = context.new_page(), []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append("a dialog"))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or complaints.append(request.url))
        start = time.perf_counter()
        page.goto(f"file://{path}{anchor}")
        page.wait_for_selector("html[data-ready=true]")
        return page, complaints, time.perf_counter() - start

    yield visit
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    run = record_run(tmp_path_factory.mktemp("hostile") / "run", texts=HOSTILE)
    assert main(["audit", "run", str(run), "--attention", "0"]) == 0
    return run


def test_nothing_a_model_wrote_runs_or_is_fetched(hostile, visit):
    page, complaints, _ = visit(hostile / "report.html")
    for number in range(len(HOSTILE)):
        page.locator("#list button").nth(number).click()
        shown = page.locator("#detail .words").last.text_content()
        assert shown == visible_text(HOSTILE[number], LONGEST_SHOWN)
    assert page.title() == "Evidence of run" and complaints == []
    assert page.locator("#detail img, #detail script, #detail a").count() == 0


def test_every_number_of_an_answer_is_the_one_that_was_recorded(hostile, visit):
    page, complaints, _ = visit(hostile / "report.html")
    recorded = {answer.id: answer for found in read_evidence(hostile) for answer in found.group.answers}
    for number in range(page.locator("#list button").count()):
        page.locator("#list button").nth(number).click()
        answer = recorded[page.locator("#detail").get_attribute("data-answer")]
        rows = page.eval_on_selector_all(
            "#detail tbody tr", "rows => rows.map(r => [r.cells[0].textContent, r.cells[1].dataset.value])"
        )
        shown = dict(rows)
        expected = {
            "IoU of both masks": answer.iou, "IoU beyond chance": answer.chance_corrected_iou, "reward": answer.reward,
            "s_tt, statement and anchor": answer.text_text_similarity, "advantage in its group": answer.advantage,
            "visual_fidelity": answer.components["visual_fidelity"].score,
        }  # fmt: skip
        assert {name: float(shown[name]) for name in expected} == expected
    assert complaints == []


def test_filters_and_keys_walk_through_the_samples(hostile, visit):
    page, complaints, _ = visit(hostile / "report.html")
    answers = [(found, answer) for found in read_evidence(hostile) for answer in found.group.answers]
    wrong = [answer.id for _, answer in answers if answer.is_valid and not answer.is_correct]
    page.select_option("select[name=outcome]", "wrong")
    assert (
        page.locator("#count").text_content() == f"{len(wrong)} of {len(answers)} samples, {len(wrong)} of them wrong."
    )
    assert page.locator("#detail").get_attribute("data-answer") == wrong[0]
    page.locator("h2#samples-title").click()
    page.keyboard.press("j")
    assert page.locator("#detail").get_attribute("data-answer") == wrong[1]
    page.keyboard.press("k")
    assert page.locator("#detail").get_attribute("data-answer") == wrong[0]
    page.select_option("select[name=outcome]", "")
    page.select_option("select[name=paid]", "+visual_fidelity")
    paid = [answer.id for _, answer in answers if answer.components["visual_fidelity"].score > 0]
    assert page.locator("#list button").count() == len(paid)
    page.select_option("select[name=phase]", "open")
    both = [answer.id for found, answer in answers if answer.id in paid and found.batch.phase == "open"]
    assert page.locator("#list button").count() == len(both)
    page.keyboard.press("Escape")
    page.locator("h2#samples-title").click()
    page.keyboard.press("/")
    page.keyboard.type("no such words")
    assert (
        "0 of" in page.locator("#count").text_content() and "No sample fits" in page.locator("#detail").text_content()
    )
    assert complaints == []
    page, _, _ = visit(hostile / "report.html", anchor=f"#answer={wrong[1]}")
    assert page.locator("#detail").get_attribute("data-answer") == wrong[1]


def test_it_fits_a_phone_a_dark_room_and_paper(hostile, visit, tmp_path):
    page, complaints, _ = visit(hostile / "report.html", PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(244, 245, 247)"
    page.emulate_media(media="print")
    assert not page.locator("form.filters").is_visible() and page.locator("#detail table").first.is_visible()
    page.pdf(path=tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").stat().st_size > 10_000 and complaints == []


def test_two_thousand_samples_open_within_two_seconds(tmp_path, visit):
    run = record_run(tmp_path / "run", steps=50, groups=5, answers=8, size=256)
    assert main(["audit", "run", str(run), "--attention", "0"]) == 0
    page, complaints, seconds = visit(run / "report.html")
    assert "2000 of 2000" in page.locator("#count").text_content() and complaints == []
    assert seconds < 2, f"took {seconds:.2f} s"


@pytest.mark.parametrize("name", ["phantom", "vqa_rad"])
def test_the_page_of_a_trained_run_shows_its_masks_and_what_the_policy_read(
    name, visit, tmp_path, repository, data_root
):
    """Four steps; of real pictures none is on the page unless it is asked for."""
    run = tmp_path / name
    config = {"phantom": ["phantom.yaml"], "vqa_rad": ["vqa_rad_tiny.yaml", f"data.root={data_root / 'vqa-rad'}"]}[name]
    settings = [
        "training.steps=2", "grpo.prompts_per_step=8", "grpo.group_size=4", "evidence.every=1", "evidence.groups=2",
        "training.evaluate_every=0", "logging.progress=false",
    ]  # fmt: skip
    assert main(["train", str(repository / "configs" / config[0]), *config[1:], *settings, f"run.dir={run}"]) == 0
    assert main(["audit", "run", str(run), "--attention", "2"]) == 0
    page, complaints, _ = visit(run / "report.html")
    page.select_option("select[name=attention]", "measured")
    labels = page.locator("#detail figcaption").all_text_contents()
    assert {"policy's attention, before training", "policy's attention, after step 2"} <= set(labels)
    assert ("what the judge sees" in labels) == (name == "phantom")
    assert page.locator("#attention td.number").count() == 10
    data = json.loads(page.locator("#data").text_content())
    assert bool(data["pictures"]) == (name == "phantom") and complaints == []
