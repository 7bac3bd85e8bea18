"""The shipped judge is fit on phantoms; random weights, exchanged words and real pictures are not, and the command says so."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from reflex_jax.audit.judge_audit import audit_judge, load_questions
from reflex_jax.audit.judge_report import as_markdown, as_values
from reflex_jax.audit.judge_scores import JudgeOfAudit
from reflex_jax.audit.plausibility import find_named, points_into, region_cells
from reflex_jax.cli import main
from reflex_jax.config import ConfigError
from reflex_jax.config_reader import load_config
from reflex_jax.data.phantom import phantom_examples, phantom_image, phantom_of
from reflex_jax.data.slake_regions import SlakeRegions
from reflex_jax.judge.evidence import Judge, load_judge
from reflex_jax.models.biomedclip import init_judge_params

SLOW = pytest.mark.slow  # two more like the first
FEW = 16  # questions: one batch, and enough for these verdicts


@pytest.fixture(scope="module")
def judge():
    return load_judge("phantom")


@pytest.fixture(scope="module")
def config(repository):
    # no true statement is longer, and the text tower is compiled for one length
    return load_config(repository / "configs" / "phantom.yaml", ["data.size=100", "judge.max_statement_tokens=16"])


@pytest.fixture(scope="module")
def questions(config):
    return load_questions(config)


@pytest.fixture(scope="module")
def fit(config, judge, questions):
    return audit_judge(config, judge, questions, count=FEW)


def random_judge(judge: Judge) -> Judge:
    params = jax.jit(init_judge_params, static_argnums=0)(judge.config, jax.random.key(1))
    return Judge(judge.config, params, judge.tokenizer)


def with_shuffled_weights(judge: Judge) -> Judge:
    """The numbers of each matrix in another order: random weights of the trained spread, which nothing has to be compiled for."""
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: random.permutation(np.ravel(leaf)).reshape(leaf.shape), judge.params)
    return Judge(judge.config, params, judge.tokenizer)


def with_exchanged_words(judge: Judge) -> Judge:
    """Each word means another one: the towers are trained, the statements are not theirs."""
    text = judge.params["text"]
    words = text["embed"]["words"]
    mixed = words[np.random.default_rng(0).permutation(words.shape[0])]
    embed = text["embed"] | {"words": mixed}
    return Judge(judge.config, judge.params | {"text": text | {"embed": embed}}, judge.tokenizer)


def test_the_shipped_judge_is_fit_on_phantoms(fit):
    assert fit.label == "fit"
    assert [v.label for v in fit.verdicts] == ["informative"] * 3
    assert fit.plausibility.pointing.low > 0.8 > fit.plausibility.area.high


@pytest.mark.parametrize(
    "broken", [with_shuffled_weights, *(pytest.param(b, marks=SLOW) for b in (with_exchanged_words, random_judge))]
)
def test_a_broken_judge_is_not_fit(broken, config, judge, questions):
    found = audit_judge(config, broken(judge), questions, count=FEW)
    assert found.label == "not fit", found.sentence


def test_the_findings_are_plain_values_and_a_page(fit):
    values, page = json.loads(json.dumps(as_values(fit))), as_markdown(fit)
    assert values["verdict"] == "fit" and values["sample"]["questions"] == FEW
    assert values["distributions"]["s_tt"]["truth"]["median"] == pytest.approx(1.0)
    assert values["components"]["VFR"]["pass_rates"]["paraphrase"]["value"] == 1.0
    assert "**fit: VFR, s_tt, s_it" in page and "## What a component cannot see" in page


def test_the_picture_of_an_example_is_known_with_its_lesions():
    for example in phantom_examples("validation", 30, 2):
        phantom = phantom_of(example)
        assert np.array_equal(np.asarray(phantom_image(phantom)), np.asarray(example.images[0].load()))


def test_pointing_looks_at_the_highest_cell_and_a_constant_map_points_nowhere():
    maps = np.zeros((3, 2, 2), np.float32)
    maps[0, 1, 0], maps[1, 0, 1] = 1, 1
    cells = np.array([[[False, False], [True, False]]] * 2 + [[[True, True], [True, True]]])
    assert points_into(maps, cells).tolist() == [True, False, False]


def slake_picture(root, name: str, size=(40, 20), mask=None, boxes="[]"):
    folder = root / "imgs" / name
    folder.mkdir(parents=True)
    Image.new("RGB", size).save(folder / "source.jpg")
    (folder / "detection.json").write_text(boxes)
    if mask is not None:
        Image.fromarray(mask).save(folder / "mask.png")
    (root / "mask.txt").write_text("70:Liver\n180:Heart\n")


def test_masks_and_boxes_of_slake_are_read_by_name(tmp_path):
    mask = np.zeros((20, 40), np.uint8)
    mask[5:10, 10:30] = 70
    slake_picture(tmp_path, "xmlab1", mask=mask, boxes='[{"Liver": [0, 0, 40, 20]}, {"Nodule": [1, 2, 3, 4]}]')
    found = {region.name: region.mask for region in SlakeRegions(tmp_path).of_picture("xmlab1/source.jpg", (40, 20))}
    assert found.keys() == {"Liver", "Nodule"}  # no pixel is of the heart
    assert np.array_equal(found["Liver"], mask == 70)  # the mask, not the box
    assert found["Nodule"].sum() == 12 and found["Nodule"][2:6, 1:4].all()
    assert SlakeRegions(tmp_path).of_picture("xmlab9/source.jpg", (40, 20)) == []


def test_a_damaged_box_and_a_mask_of_another_size_are_named(tmp_path):
    slake_picture(tmp_path, "xmlab1", boxes='[{"Liver": [0, 0, 40]}]')
    slake_picture(tmp_path, "xmlab2", mask=np.zeros((5, 5), np.uint8))
    for name, words in (("xmlab1", "detection.json: expected a list of"), ("xmlab2", "expected a mask of")):
        with pytest.raises(ConfigError, match=words):
            SlakeRegions(tmp_path).of_picture(f"{name}/source.jpg", (40, 20))


def test_a_mask_is_cut_and_resized_as_its_picture_is(judge, config):
    mask = np.zeros((100, 200), bool)
    mask[:, 50:100] = True  # the crop keeps columns 50 to 150: the left half
    cells = region_cells(mask, JudgeOfAudit(judge, config.judge))
    assert cells.shape == (14, 14) and cells[:, :7].all() and not cells[:, 7:].any()


def test_pictures_without_masks_name_nothing(judge, config, questions):
    asked = JudgeOfAudit(judge, config.judge)
    assert find_named(questions[:4], load_config(None, ["data.source=phantom"]), asked)
    other = load_config(None, ["data.sources=[{name: vqa_rad, root: x, label: phantom}]"])
    assert find_named(questions[:4], other, asked) == []


def test_wrong_input_is_refused_in_a_line(capsys, repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, words in (
        (["grpo_vanilla_tiny.yaml"], "expected one that asks the judge"),
        (["phantom.yaml", "--questions", "0"], "--questions: expected at least 1"),
        (["phantom.yaml", "judge.quantile=2"], "judge.quantile"),
        (["phantom.yaml", "--sanity", "-1"], "--sanity: expected"),
        (["phantom.yaml", "--to", "/proc/nowhere"], "--to: '/proc/nowhere' cannot be written"),
    ):
        assert main(["audit", "judge", str(repository / "configs" / arguments[0]), *arguments[1:]]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow  # what the default run checks in parts, through the command line
def test_the_command_says_fit_by_its_code_and_writes_what_it_found(capsys, repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        main(["audit", "judge", str(repository / "configs" / "phantom.yaml"), "--questions", "60", "--sanity", "4"])
        == 0
    )
    assert "fit: VFR, s_tt, s_it pay signal" in capsys.readouterr().out
    assert json.loads((tmp_path / "audits/phantom/judge.json").read_text())["verdict"] == "fit"
    assert (tmp_path / "audits/phantom/judge.md").read_text().startswith("# Judge audit")


@pytest.mark.slow  # prepares two real data sets
@pytest.mark.parametrize(("name", "folder"), [("vqa_rad", "vqa-rad"), ("slake", "slake")])
def test_no_tiny_judge_is_fit_on_real_pictures(data_root, repository, tmp_path, judge, name, folder):
    config = load_config(
        repository / "configs" / f"{name}_tiny.yaml", [f"data.root={data_root / folder}", f"data.cache={tmp_path}"]
    )
    examples = load_questions(config)
    for tried in (judge, random_judge(judge)):
        found = audit_judge(config, tried, examples, count=120)
        assert found.label == "not fit", found.sentence
        assert (found.plausibility is not None) == (name == "slake")
