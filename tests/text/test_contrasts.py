"""Words that turn a finding: two answers disagree where one says the one and the other another."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex_jax.text.contrasts import disagree

DISAGREE = """
left lung | right lung
Lower Right | Lower Left Lung
There is no pleural effusion | There is a pleural effusion
effusion is absent | effusion is present
a mass is not seen | a mass is seen
2.5 cm | 3.5 cm
two nodules | three nodules
5 mm | 5 cm
-5 | 5
> 3 cm | < 3 cm
more than 3 cm | less than 3 cm
HER2+ | HER2-
HER2 positive | HER2-
T1 weighted | T2 weighted
L4 fracture | L5 fracture
grade 2 glioma | grade III glioma
type A dissection | type B dissection
low grade glioma | high grade glioma
mild edema | severe oedema
3rd ventricle | fourth ventricle
upper lobe | lower lobe
superior lobe | inferior lobe
anterior mediastinum | posterior mediastinum
with contrast | without contrast
contrast CT | non-contrast CT
mass with calcification | mass without calcification
no fracture, effusion present | fracture, no effusion
hyperdense lesion | hypodense lesion
acute infarct | chronic infarct
benign tumor | malignant tumour
both lungs | left lung
Bilateral lungs | right lung
left lung, right lung | left lung
Left Lung, Right | Right Lung, Left
left upper and right lower lobe | right upper and left lower lobe
2 nodules in 3 lobes | 3 nodules in 2 lobes
coronal plane | axial plane
CT scan | MRI scan
normal heart | abnormal heart
stage IIA | stage IIB
R lung | L lung
bilateral effusion | unilateral effusion
supratentorial mass | infratentorial mass
intra-axial | extra-axial
ascending colon | descending colon
renal artery | renal vein
left > right | right > left
no | yes, there is one
4+3=7 | 3+4=7
Gleason 4 + 3 | Gleason 3+4 = 7
120/80 mmHg | 80/120 mmHg
120 over 80 | 80/120
1:2 | 2:1
1 to 2.0 | 2 : 1
5 x 3 cm | 3 x 5 cm
3-5 | 5-3
"""
AGREE = """
left lung | left lower lobe
lung | left lung
two nodules | 2 nodule
3.5cm mass | 3.5 cm mass
more than 3 cm | > 3 cm
grade 2 | grade II
upper lobe | superior lobe
axial plane | transverse plane
no effusion | no evidence of an effusion
no mass, fracture or effusion | no effusion, mass or fracture
effusion is absent | no effusion
mass without calcification | mass
not absent | present
left and right lung | right and left lung
both lungs | left and right lungs
5 and 3 cm | 3 and 5 cm
7 = 3 + 4 | 3+4=7
120/80 | 120 / 80 mmHg
CT | CT scan of the chest
T1- and T2-weighted | T2- and T1-weighted
"""


def pairs(table):
    return [tuple(part.strip() for part in line.split(" | ")) for line in table.strip().splitlines()]


@pytest.mark.parametrize("first, second", pairs(DISAGREE))
def test_contrasts_disagree_in_both_directions(first, second):
    assert disagree(first, second) and disagree(second, first)


@pytest.mark.parametrize("first, second", pairs(AGREE))
def test_other_words_and_words_left_out_are_no_disagreement(first, second):
    assert not disagree(first, second) and not disagree(second, first)


@given(
    st.lists(
        st.sampled_from("no not left right upper , and lung 2 3 t1 without both or mass absent x < >".split()),
        max_size=9,
    )
)
def test_nothing_disagrees_with_itself_and_the_order_of_two_answers_does_not_matter(words):
    text = " ".join(words)
    assert not disagree(text, text)
    assert disagree(text, "left mass, no 2") == disagree("left mass, no 2", text)


def test_exchanging_left_and_right_disagrees_in_every_open_answer_of_real_sets(data_root):
    rows = json.loads((data_root / "vqa-rad" / "VQA_RAD Dataset Public.json").read_text())
    for split in ("train", "validate", "test"):
        rows += [r for r in json.loads((data_root / "slake" / f"{split}.json").read_text()) if r["q_lang"] == "en"]
    truths = {str(row["answer"]) for row in rows if row["answer_type"].strip() == "OPEN"}
    other = {"left": "right", "right": "left"}
    exchanged = {
        truth: re.sub(r"\b(?:left|right)\b", lambda found: other[found[0].lower()], truth, flags=re.IGNORECASE)
        for truth in truths
    }
    changed = {truth: text for truth, text in exchanged.items() if text != truth}
    assert len(changed) > 100
    assert [truth for truth, text in changed.items() if not disagree(text, truth)] == []
