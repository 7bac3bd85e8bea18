"""VQA-Med 2019 and SilVar-Med: their toy copies, reference answers with alternatives, lists of questions, other folders."""

import json
import shutil

import pytest
from PIL import Image

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example
from reflex_jax.data.readers import silvar_med, vqa_med_2019
from reflex_jax.data.readers.vqa_med_2019 import read_reference

TEST = "VQAMed2019Test/VQAMed2019_Test_Questions_w_Ref_Answers.txt"


def read(reader, root, split):
    return list(reader.LAYOUT.read(root, split))


def save_picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 3)).save(path, "PNG")


# --- VQA-Med 2019


def test_vqa_med_has_categories_and_accepted_answers(formats):
    root = formats / "vqa-med-2019"
    assert list(vqa_med_2019.LAYOUT.splits(root)) == ["train", "validation", "test"]
    train, validation, test = (read(vqa_med_2019, root, split) for split in ("train", "validation", "test"))
    assert [row.category for row in train] == ["modality", "plane", "organ", "abnormality", None]
    assert [row.category for row in validation] == ["abnormality", "modality"] and validation[0].id == "validation-0"
    assert train[2].answer == "toy lung, rim, and pleura" and train[2].accepted == ()
    assert [row.answer_type for row in train] == ["open", "open", "open", "closed", "closed"]
    assert test[1] == Example(
        id="test-1",
        question="which toy system is drawn?",
        answer="toy chin, throat, and neck",
        accepted=("toy head and contents",),
        answer_type="open",
        images=test[1].images,
        category="organ",
    )
    assert (test[3].answer, test[3].accepted) == (
        "large dark disc with gap",
        ("dark disc with gap", "open outline", "disc"),
    )
    assert test[0].answer_type == "closed" and all(row.load_images() for row in (*train, *validation, *test))
    assert len({row.image_id for row in (*train, *validation, *test)}) == 7


@pytest.mark.parametrize(
    "reference, answers",
    [
        ("(seronegative) disease", ("seronegative disease", "disease")),
        ("tumor (cyst) of cns", ("tumor cyst of cns", "tumor of cns")),
        ("aml (angiomyolipoma)", ("aml angiomyolipoma", "aml")),
        ("tumor(s), large", ("tumors, large", "tumor, large")),
        ("disc (dark), gap", ("disc dark, gap", "disc, gap")),
        ("(a) b (c)", ("a b c", "a b", "b c", "b")),
        ("(normal)", ("normal",)),  # without it nothing is said
        ("disc (", ("disc (",)),
        ("disc (of (no) size)", ("disc (of (no) size)",)),
        ("a##b# a ", ("a", "b")),
        ("(1)(2)(3)(4)(5) x", ("12345 x", "x")),
    ],
)
def test_what_stands_in_brackets_may_be_left_out(reference, answers):
    assert read_reference(reference, has_optional=True) == answers


def write_vqa_med(root, *lines):
    save_picture(root / "VQAMed2019Test/Images/a.jpg")  # the other name of this folder
    (root / TEST).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def test_brackets_of_a_class_name_stay(tmp_path):
    lines = [
        "a|modality|what is it?|ct w/contrast (iv)",
        "",
        "a|Organ|is \tit?|lung#(heart)\r",
        "a|abnormality|what?|(big) disc",
    ]
    modality, organ, abnormality = read(vqa_med_2019, write_vqa_med(tmp_path, *lines), "test")
    assert (modality.answer, modality.accepted, modality.image_id) == (
        "ct w/contrast (iv)",
        (),
        "VQAMed2019Test/Images/a.jpg",
    )
    assert (organ.question, organ.answer, organ.accepted, organ.category) == ("is it?", "lung", ("(heart)",), "organ")
    assert abnormality.id == "test-2" and abnormality.accepted == ("disc",)


@pytest.mark.parametrize(
    "line, reason",
    [
        ("b|plane|what?|axial", "no picture"),
        ("|plane|what?|axial", "no picture"),
        ("a|plane|what?|", "no answer"),
        ("a|plane|what?|#", "no answer"),
        ("a|what?|axial", "expected image|category|question|answer"),
        ("a|plane|what?|axial|more", "expected image|category|question|answer"),
    ],
)
def test_vqa_med_refuses_a_line_and_goes_on(tmp_path, line, reason):
    refused, example = read(vqa_med_2019, write_vqa_med(tmp_path, line, "a|plane|what?|axial"), "test")
    assert refused.id == "test-0" and refused.reason.startswith(reason) and example.answer == "axial"


def test_vqa_med_wrong_files_are_named(tmp_path):
    root = write_vqa_med(tmp_path, "a|plane|what?|axial", "a|pla")
    with pytest.raises(ConfigError, match="Answers.txt: expected lines image|question|answer; the last is 'a|pla'"):
        read(vqa_med_2019, root, "test")
    (root / TEST).write_bytes(b"\xff\xfe\0")
    with pytest.raises(ConfigError, match="Answers.txt: cannot be read as UTF-8"):
        read(vqa_med_2019, root, "test")


def test_vqa_med_train_needs_neither_categories_nor_unpacked_pictures(formats, tmp_path):
    folder = "ImageClef-2019-VQA-Med-Training"
    shutil.copytree(formats / "vqa-med-2019" / folder, tmp_path / "unpacked" / folder)
    root = tmp_path / "root"
    (root / folder).mkdir(parents=True)
    shutil.copy(tmp_path / "unpacked" / folder / "All_QA_Pairs_train.txt", root / folder)
    shutil.make_archive(str(root / folder), "zip", tmp_path / "unpacked")
    rows = read(vqa_med_2019, root, "train")
    assert [row.category for row in rows] == [None] * 5 and rows[0].load_images()
    assert list(vqa_med_2019.LAYOUT.splits(root)) == ["train"]


# --- SilVar-Med


def test_silvar_med_takes_lists_apart_and_finds_pictures_by_the_head_of_their_name(formats):
    root = formats / "silvar-med"
    train, test = read(silvar_med, root, "train"), read(silvar_med, root, "test")
    assert [row.id for row in train] == ["train-0", "train-1", "train-2-0", "train-2-1"] and len(test) == 2
    assert train[1] == Example(
        id="train-1",
        question="Where is the abnormality?",
        answer="The dark disc lies at the lower right, next to the outline.",
        answer_type="open",
        images=train[1].images,
    )
    assert train[1].image_id == "train/imgs_train_abnormal/toy102.jpg"  # toy102_3.jpg is not there
    assert (train[3].question, train[3].answer[:12]) == ("Which tone has the disc?", "It is bright")
    assert train[2].image_id == train[3].image_id and all(row.load_images() for row in (*train, *test))


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"question": ["Is it?"]}, "not as many answers as questions"),
        ({"question": ["Is it?", "Why?"], "answer": ["Yes"]}, "not as many answers as questions"),
        ({"question": [], "answer": []}, "not as many answers as questions"),
        ({"question": ["Is it?"], "answer": [["Yes"]]}, "not as many answers as questions"),
        ({"answer": True}, "answer"),
        ({"img_name": "b_1.png"}, "no picture"),
        ({"img_name": "b.png"}, "no picture"),
        ({"img_name": None}, "no picture"),
        ({"img_name": "a_1_2.png"}, ("Yes", "closed", "a.jpg")),
        ({"img_name": "c_1.png", "answer": 3}, ("3", "open", "c_1.png")),  # as it is named, before the fallback
    ],
)
def test_silvar_med_rows_in_other_forms(tmp_path, changes, expected):
    for name in ("a.jpg", "c.jpg", "c_1.png"):
        save_picture(tmp_path / "test/imgs_test_abnormal" / name)
    row = {"img_name": "a.jpg", "question": "Is it?", "answer": "Yes"} | changes
    (tmp_path / "test/dataset_unique_abnormal.json").write_text(json.dumps([row]))
    assert list(silvar_med.LAYOUT.splits(tmp_path)) == ["test"]
    (found,) = read(silvar_med, tmp_path, "test")
    if isinstance(expected, str):
        assert found.reason.startswith(expected)
    else:
        assert (found.answer, found.answer_type, found.image_id.rsplit("/")[-1]) == expected
