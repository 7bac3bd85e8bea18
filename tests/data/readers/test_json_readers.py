"""VQA-RAD, SLAKE and Quilt-VQA: their official JSON files and toy copies, odd fields, pictures in folders and archives."""

import shutil
import zipfile

import pytest

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example, RefusedRow
from reflex_jax.data.readers import quilt_vqa, slake, vqa_rad

FOLDER = "VQA_RAD Image Folder"
ANNOTATIONS = "VQA_RAD Dataset Public.json"


def read(reader, root, split):
    return list(reader.LAYOUT.read(root, split))


def refusals(rows):
    return {row.id: row.reason for row in rows if isinstance(row, RefusedRow)}


# --- VQA-RAD


def rad_row(**changes):
    row = {
        "qid": 1, "phrase_type": "freeform", "image_name": "a.png", "image_organ": "HEAD", "question": "Is it?",
        "question_rephrase": "NULL", "answer": "Yes", "answer_type": "CLOSED", "question_type": "PRES",
    }  # fmt: skip
    return row | changes


def write_rad(root, rows, save_json, save_picture, images=("a.png",)):
    save_json(root / ANNOTATIONS, rows)
    for name in images:
        save_picture(root / FOLDER / name)
    return root


def test_vqa_rad_has_its_official_splits_and_order(data_root):
    root = data_root / "vqa-rad"
    train, test = (read(vqa_rad, root, split) for split in vqa_rad.LAYOUT.splits(root))
    assert (len(train), len(test)) == (1437, 373) and not refusals([*train, *test])
    assert sum(row.answer_type == "closed" for row in [*train, *test]) == 1082
    assert len({row.id for row in [*train, *test]}) == 1810 and train[0].id == "0"
    assert sum(bool(row.paraphrases) for row in [*train, *test]) == 1439
    assert train[1].category == "MODALITY" and train[0].image_id == "synpic54610.jpg"


def test_odd_fields_of_vqa_rad_are_mended(tmp_path, save_json, save_picture):
    rows = [
        rad_row(qid="0", question="What  is this? ", answer=" left lobe", answer_type="OPEN "),
        rad_row(qid=1, answer=4, answer_type="OPEN", question_rephrase="How many?", image_organ="NULL"),
        {key: value for key, value in rad_row(qid=2).items() if key not in ("question_rephrase", "question_type")},
        rad_row(qid=3, answer_type=None, question_rephrase=["How?", "NULL", " So? "], phrase_type="para"),
        rad_row(qid=4, phrase_type="test_para"),
    ]
    first, second, third, fourth = read(vqa_rad, write_rad(tmp_path, rows, save_json, save_picture), "train")
    assert (first.id, first.question, first.answer, first.answer_type) == ("0", "What is this?", "left lobe", "open")
    assert (second.answer, second.paraphrases, second.organ) == ("4", ("How many?",), None)
    assert (third.paraphrases, third.category, third.organ) == ((), None, "HEAD")
    assert (fourth.answer_type, fourth.paraphrases) == ("closed", ("How?", "So?"))
    assert [row.id for row in read(vqa_rad, tmp_path, "test")] == ["4"]


def test_rows_of_vqa_rad_that_cannot_be_used_are_refused_and_the_others_read(tmp_path, save_json, save_picture):
    rows = [
        rad_row(qid=1, phrase_type=None),
        rad_row(qid=2, phrase_type="spoken"),
        rad_row(qid=3, answer="NULL"),
        rad_row(qid=4, answer=True),
        rad_row(qid=5, answer_type="YES/NO"),
        rad_row(qid=6, image_name="b.png"),
        rad_row(qid=7, image_name=None),
        rad_row(qid=8, image_name="../a.png"),
        rad_row(qid=None, question=" "),
        rad_row(qid=10),
    ]
    found = read(vqa_rad, write_rad(tmp_path, rows, save_json, save_picture), "train")
    assert refusals(found) == {
        "1": "a phrase_type of no split", "2": "a phrase_type of no split", "3": "no answer", "4": "answer",
        "5": "an answer_type that is neither closed nor open", "6": "no picture", "7": "no picture",
        "8": "picture outside the data's folder", "train-8": "no question",
    }  # fmt: skip
    assert found[-1].id == "10"
    assert refusals(read(vqa_rad, tmp_path, "test")) == dict.fromkeys("12", "a phrase_type of no split")


@pytest.mark.parametrize("member", [f"{FOLDER}/{{}}", "{}", None])
def test_pictures_are_found_by_their_names_as_they_are_written(tmp_path, save_json, save_picture, member):
    names = ["two  spaces.png", "blank behind.png ", " before.png"]
    rows = [rad_row(qid=number, image_name=name) for number, name in enumerate(names)]
    write_rad(tmp_path, rows, save_json, save_picture, images=names)
    if member is not None:
        with zipfile.ZipFile(tmp_path / f"{FOLDER}.zip", "w") as archive:
            for name in names:
                archive.write(tmp_path / FOLDER / name, member.format(name))
        shutil.rmtree(tmp_path / FOLDER)
    found = read(vqa_rad, tmp_path, "train")
    assert [row.image_id for row in found] == names and all(row.load_images() for row in found)


# --- SLAKE


def slake_row(**changes):
    row = {
        "qid": 5, "img_name": "xmlab1/source.jpg", "question": "Is it?", "answer": "No", "q_lang": "en",
        "answer_type": "CLOSED", "modality": "CT", "location": "Lung", "content_type": "Organ",
    }  # fmt: skip
    return row | changes


def test_slake_of_the_hub_has_both_languages_and_its_pictures_in_an_archive(formats):
    root = formats / "slake-hf"
    assert list(slake.LAYOUT.splits(root)) == ["train", "validation", "test"]
    train, validation, test = (read(slake, root, split) for split in ("train", "validation", "test"))
    assert [row.id for row in train] == ["0", "1", "2", "1622", "zh-4", "zh-5"]
    assert train[3] == RefusedRow(id="1622", reason="no answer", is_official=True)
    assert [row.id for row in validation] == ["6", "7"] and [row.id for row in test] == ["8", "9", "10", "zh-11"]
    assert train[2] == Example(
        id="2",
        question="Which is bigger here, the disc or the line?",
        answer="Disc",
        answer_type="closed",
        images=train[2].images,
        modality="MRI",
        organ="Lung",
        category="Size",
    )
    assert (test[1].answer, test[1].answer_type, test[1].category) == ("Left Lung, Upper Right", "open", "Position")
    assert (train[4].language, train[4].answer, train[4].answer_type) == ("zh", "有", "closed")
    assert train[4].image_id == test[0].image_id == "xmlab3/source.jpg"
    assert train[0].load_images()[0].size == (48, 56)


def test_slake_of_its_authors_has_its_official_splits(data_root):
    root = data_root / "slake"
    found = {split: read(slake, root, split) for split in slake.LAYOUT.splits(root)}
    assert {split: len(rows) - len(refusals(rows)) for split, rows in found.items()} == {
        "train": 1557, "validation": 225, "test": 327,
    }  # fmt: skip
    assert refusals(found["train"]) == {"1622": "no answer"}
    images = [{row.image_id for row in rows if isinstance(row, Example)} for rows in found.values()]
    assert [len(ids) for ids in images] == [144, 20, 28] and not images[0] & images[2]


def test_slake_keeps_pictures_of_one_folder_and_flat_ones_apart(tmp_path, save_json, save_picture):
    names = ["xmlab1/source.jpg", "xmlab1/other.jpg", "xmlab1.jpg"]
    rows = [slake_row(qid=number, img_name=name) for number, name in enumerate(names)]
    rows += [slake_row(qid=8, answer=" "), slake_row(qid=9, q_lang=None), slake_row(qid=1622, answer="", q_lang="zh")]
    save_json(tmp_path / "train.json", rows)
    for grey, name in enumerate(names):
        save_picture(tmp_path / "imgs" / name, grey)
    found = read(slake, tmp_path, "train")
    assert slake.LAYOUT.splits(tmp_path) == ["train"]
    assert [row.image_id for row in found[:3]] == names
    assert [row.load_images()[0].getpixel((0, 0))[0] for row in found[:3]] == [0, 1, 2]
    assert refusals(found) == {"8": "no answer", "9": "a q_lang that is none", "1622": "no answer"}
    assert not any(row.is_official for row in found[3:])  # the published one is in English


@pytest.mark.parametrize(
    "content, expected",
    [('[{"qid": 1}', "expected a JSON list"), ('[{"qid": 1}]', r"row 0 \(answer"), ('{"qid": 1}', "another layout")],
)
def test_wrong_json_files_are_refused_by_name(tmp_path, content, expected):
    (tmp_path / "test.json").write_text(content)
    with pytest.raises(ConfigError, match=rf"test\.json: .*{expected}"):
        read(slake, tmp_path, "test")


def test_damaged_archives_are_refused_by_name(tmp_path, save_json):
    save_json(tmp_path / "test.json", [slake_row()])
    (tmp_path / "imgs.zip").write_bytes(b"PK\3\4 cut")
    with pytest.raises(ConfigError, match=r"imgs\.zip: cannot be read as a zip archive"):
        read(slake, tmp_path, "test")


# --- Quilt-VQA


def test_quilt_vqa_is_its_json_file_and_the_ringed_questions(formats):
    root = formats / "quilt-vqa"
    assert quilt_vqa.LAYOUT.splits(root) == ["test", "red", "red_unmarked"]
    test, red, unmarked = (read(quilt_vqa, root, split) for split in ("test", "red", "red_unmarked"))
    assert [row.id for row in test] == ["test-0", "test-1", "test-2", "test-3"]
    assert [row.answer_type for row in test] == ["closed", "open", "closed", "open"]
    assert test[2] == Example(
        id="test-2",
        question="Are the discs normal?",
        answer="Yes",
        answer_type="closed",
        images=test[2].images,
        reasoning="Yes, they are not abnormal in this drawing.",
    )
    assert test[3].answer == "Because it was filled with a low grey value." and test[3].reasoning is None
    assert [row.id for row in [*red, *unmarked]] == ["red-0", "red-1", "red_unmarked-0", "red_unmarked-1"]
    assert red[0].image_id != unmarked[0].image_id == test[0].image_id
    assert red[0].load_images()[0].tobytes() != unmarked[0].load_images()[0].tobytes()


def test_quilt_vqa_without_its_pictures_is_its_parquet_file(formats, tmp_path):
    shutil.copytree(formats / "quilt-vqa" / "Quilt_VQA", tmp_path, dirs_exist_ok=True)
    (tmp_path / "quilt_vqa.zip").unlink()
    assert quilt_vqa.LAYOUT.splits(tmp_path) == ["test"]
    found = read(quilt_vqa, tmp_path, "test")
    assert [(row.id, row.answer[:2], row.answer_type) for row in found] == [
        ("test-0", "No", "closed"), ("test-1", "A ", "open"), ("test-2", "Ye", "closed"),
    ]  # fmt: skip
    assert found[0].images == found[1].images and len(found[0].image_id) == 16
    (tmp_path / "quiltvqa_test_w_ans.json").rename(tmp_path / "quiltvqa_red_test_w_ans.json")
    assert quilt_vqa.LAYOUT.splits(tmp_path) == ["red"]  # parquet files beside it are not those of the test


def test_unpacked_and_flat_pictures_of_quilt_vqa_are_never_taken_for_each_other(tmp_path, save_json, save_picture):
    answers = [
        {"id": 7, "answer": "Not so.", "answer_type": "CLOSED"},
        {"id": 8, "answer": "It is grey.", "answer_type": "OPEN", "image": "deep/a.jpg", "question": "Why?"},
        {"id": 9, "answer": "no-one knows", "answer_type": "closed", "yes_no_answer": "no."},
        {"id": 10, "answer": "It is grey.", "answer_type": "OPEN"},
        {"id": 11, "answer": None, "answer_type": None},
    ]
    asked = [{"question_id": number, "text": "Is it?", "image": "a.jpg"} for number in (7, 8, 9)]
    save_json(tmp_path / "quiltvqa_red_test_w_ans.json", answers)
    save_json(tmp_path / "quiltvqa_red_test_wo_ans.jsonl", asked)
    save_json(tmp_path / "quiltvqa_nored_test_wo_ans.jsonl", asked[:2])
    save_picture(tmp_path / "quilt_vqa" / "images" / "a.jpg", 1)
    with zipfile.ZipFile(tmp_path / "red_circle.zip", "w") as archive:
        save_picture(tmp_path / "ringed.png", 2)
        archive.write(tmp_path / "ringed.png", "quilt_vqa/images/a.jpg")
    red, unmarked = (read(quilt_vqa, tmp_path, split) for split in quilt_vqa.LAYOUT.splits(tmp_path))
    assert refusals(red) == {
        "red-7": "a closed question whose answer begins with neither yes nor no", "red-10": "no question",
        "red-11": "no answer",
    }  # fmt: skip
    assert [(row.id, row.question, row.answer) for row in (red[1], red[2], unmarked[1])] == [
        ("red-8", "Why?", "It is grey."), ("red-9", "Is it?", "No"), ("red_unmarked-8", "Why?", "It is grey."),
    ]  # fmt: skip
    assert [row.load_images()[0].getpixel((0, 0))[0] for row in (red[1], red[2], unmarked[1])] == [2, 2, 1]
    assert len(unmarked) == 2
    (tmp_path / "quiltvqa_red_test_wo_ans.jsonl").write_text('{"question_id": 7}\n{"cut')
    with pytest.raises(ConfigError, match=r"wo_ans\.jsonl: line 2: no JSON object"):
        read(quilt_vqa, tmp_path, "red")
