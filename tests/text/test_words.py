"""Words in their compared form, and what the lexicon knows of them."""

import json
import re
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex_jax.text.lexicon import american_spelling, singular
from reflex_jax.text.normalise import clean_text
from reflex_jax.text.words import words_of


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("two nodules", "2 nodule"),
        ("3.5cm", "3.50 cm"),
        ("3.5 centimetres", "3.5 cm"),
        (".5 mm", "0.5mm"),
        ("1,000", "1000"),
        ("+5 HU", "5 HU"),
        ("twenty-five", "25"),
        ("50%", "50 percent"),
        ("third ventricle", "3rd ventricle"),
        ("grade II", "Grade 2"),
        ("more than three cm", "> 3 cm"),
        ("fewer than 5", "< five"),
        ("x-ray", "Xray"),
        ("HER2+", "HER2 positive"),
        ("HER2-, ER +ve", "HER2 negative, ER+"),
        ("Crohn's disease", "Crohn disease"),
        ("oedema", "Edema"),
        ("gastro-oesophageal", "gastro esophageal"),
        ("haemorrhages", "hemorrhage"),
        ("tumour of the colour centre", "tumor of color center"),
        ("localised grey fibres", "localized gray fiber"),
        ("anaemia, leukaemia, diarrhoea, dyspnoea", "anemia leukemia diarrhea dyspnea"),
        ("metastases", "metastasis"),
        ("bronchi", "bronchus"),
        ("vertebrae", "vertebra"),
        ("diagnoses", "diagnosis"),
        ("stenoses", "stenosis"),
        ("diverticula", "diverticulum"),
        ("abscesses", "abscess"),
        ("calcifications", "calcification"),
        ("foramina", "foramen"),
        ("opacities", "opacity"),
        ("T2-weighted", "t2 weighted"),
        ("\u0663 cm", "3 cm"),  # Arabic-Indic digit
        ("non-contrast", "noncontrast"),
        ("stage IIA tumour", "stage 2a tumor"),
        ("R frontal lobe", "right frontal lobe"),
        ("MR - FLAIR", "MRI FLAIR"),
        ("influenza a virus", "Influenza A virus"),
    ],
)
def test_two_ways_to_write_one_thing_have_the_same_words(first, second):
    assert words_of(first) == words_of(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("ileum", "ilium"),
        ("axes", "axis"),
        ("axes", "axe"),
        ("hepatitis", "hepatitis A"),
        ("hepatitis a", "hepatitis b"),
        ("pons", "pon"),
        ("PRES", "pre"),
        ("-5", "5"),
        ("2.5", "25"),
        ("2,5", "25"),
        ("HER2+", "HER2-"),
        ("HER2", "HER2-"),
        ("< 3", "> 3"),
        ("< 3", "\u2264 3"),
        ("5 mm", "5 m"),
        ("gas", "ga"),
        ("lens", "len"),
        ("mass", "mas"),
        ("pus", "pu"),
        ("four", "for"),
        ("stage I", "stage II"),
        ("\u5de6\u80ba", "\u53f3\u80ba"),  # left lung, right lung
    ],
)
def test_different_things_keep_different_words(first, second):
    assert words_of(first) != words_of(second)


@pytest.mark.parametrize(
    "word", "T1- and T2-weighted|does|this|diabetes|pancreas|thorax|pelvis|series|gastroesophageal".split("|")
)
def test_what_is_no_plural_and_no_sign_stays(word):
    assert words_of(word) == tuple(re.findall(r"[a-z0-9]+", word.lower()))


@given(st.text(max_size=30))
def test_a_visible_text_has_words_which_are_their_own_words(text):
    assert bool(words_of(text)) == bool(clean_text(text))
    assert words_of(text) == words_of(text)


# All words of the answers of VQA-RAD and SLAKE that become one.
MERGED = (
    "angle/angles area/areas bone/bones bowel/bowels bronchi/bronchus calcification/calcifications deficit/deficits "
    "disease/diseases field/fields gray/grey infarct/infarcts intestine/intestines kidney/kidneys lesion/lesions lobe/lobes "
    "lung/lungs nerve/nerves nodule/nodules ray/rays rib/ribs side/sides thalami/thalamus tumor/tumors ventricle/ventricles "
    "vessel/vessels"
)


def test_what_the_lexicon_merges_in_real_answers_is_one_thing(real_answers):
    merged = defaultdict(set)
    for word in {word for answer in real_answers for word in re.findall(r"[a-z]+", answer.lower())}:
        merged[singular(american_spelling(word))].add(word)
    assert sorted("/".join(sorted(words)) for words in merged.values() if len(words) > 1) == MERGED.split()


@pytest.fixture(scope="module")
def real_answers(data_root):
    """The different answers of VQA-RAD and SLAKE."""
    rows = json.loads((data_root / "vqa-rad" / "VQA_RAD Dataset Public.json").read_text())
    for split in ("train", "validate", "test"):
        rows += [r for r in json.loads((data_root / "slake" / f"{split}.json").read_text()) if r["q_lang"] == "en"]
    return {str(row["answer"]) for row in rows if str(row["answer"]).strip()}
