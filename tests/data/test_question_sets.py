"""VQA-RAD, SLAKE and any other layout through the one builder: official splits, odd fields, pictures, preparation by content."""

import dataclasses
import io
import json
import os
import re
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reflex_jax import config as config_module
from reflex_jax.config import DATA_SETS, ConfigError, DataConfig
from reflex_jax.data import question_sets, readers
from reflex_jax.data.examples import Example
from reflex_jax.data.layouts import Layout, Row
from reflex_jax.data.medical_images import open_image
from reflex_jax.data.question_sets import content_hash
from reflex_jax.data.sources import find_layout, load_examples
from reflex_jax.data.stored_pictures import image_bytes

VQA_RAD_ANNOTATIONS = "VQA_RAD Dataset Public.json"
VQA_RAD_IMAGES = "VQA_RAD Image Folder"


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def load(source, root, cache, split="train"):
    return load_examples(DataConfig(source=source, root=str(root), cache=str(cache)), split, seed=0)


def vqa_rad_row(**changes):
    row = {
        "qid": 1, "phrase_type": "freeform", "image_name": "a.png", "image_organ": "HEAD", "question": "Is it?",
        "question_rephrase": "NULL", "answer": "Yes", "answer_type": "CLOSED",
    }  # fmt: skip
    return row | changes


def write_vqa_rad(root, rows, images=("a.png",)):
    (root / VQA_RAD_IMAGES).mkdir(parents=True)
    for number, name in enumerate(images):
        Image.effect_noise((30 + number, 20), 80).convert("RGB").save(root / VQA_RAD_IMAGES / name)
    (root / VQA_RAD_ANNOTATIONS).write_text(json.dumps(rows))
    return root


def write_slake(root, rows, others=()):
    for row in [*rows, *others]:
        path = root / "imgs" / row["img_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((20, 30), 80).convert("RGB").save(path)
    for name, content in (("train.json", rows), ("validate.json", []), ("test.json", list(others))):
        (root / name).write_text(json.dumps(content))
    return root


def slake_row(**changes):
    row = {
        "qid": 5, "img_name": "xmlab1/source.jpg", "question": "Is it?", "answer": "No", "q_lang": "en",
        "answer_type": "CLOSED", "modality": "CT", "location": "Lung",
    }  # fmt: skip
    return row | changes


def test_vqa_rad_has_its_official_splits(data_root, cache):
    train, test = (load("vqa_rad", data_root / "vqa-rad", cache, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1437, 373)
    assert len({e.image_id for e in train + test}) == 251 and len({e.image_id for e in test}) == 165
    assert sum(e.answer_type == "closed" for e in train + test) == 1082
    assert len({e.id for e in train + test}) == 1810 and train[0].id == "vqa_rad-0"  # the one id written as text
    rows = json.loads((data_root / "vqa-rad" / VQA_RAD_ANNOTATIONS).read_text(encoding="utf-8"))
    official = [f"vqa_rad-{row['qid']}" for row in rows if not row["phrase_type"].startswith("test_")]
    assert [e.id for e in train] == official  # the order of the file, not of the hashes on disk
    answers = {e.id: e.answer for e in train + test}
    numbers = [row for row in rows if isinstance(row["answer"], int)]
    assert len(numbers) == 4 and all(answers[f"vqa_rad-{row['qid']}"] == str(row["answer"]) for row in numbers)
    texts = [text for e in train + test for text in (e.question, e.answer, *e.paraphrases)]
    assert all(text == " ".join(text.split()) != "NULL" for text in texts)
    assert sum(bool(e.paraphrases) for e in train + test) == 1439  # 369 are "NULL", 2 rows lack the field


def test_slake_has_its_official_splits_less_the_unanswered_question(data_root, cache):
    splits = {split: load("slake", data_root / "slake", cache, split) for split in ("train", "validation", "test")}
    assert {split: len(examples) for split, examples in splits.items()} == {
        "train": 1557,
        "validation": 225,
        "test": 327,
    }
    images = [{e.image_id for e in examples} for examples in splits.values()]
    assert [len(ids) for ids in images] == [144, 20, 28] and not images[0] & images[2]
    assert "slake-1622" not in {e.id for e in splits["train"]}
    assert {e.modality for e in splits["train"]} == {"CT", "MRI", "X-Ray"}
    assert splits["train"][0].organ == "Lung"


@pytest.mark.parametrize("source, folder", [("vqa_rad", "vqa-rad"), ("slake", "slake")])
def test_pictures_are_those_of_the_official_files(data_root, cache, source, folder):
    examples = load(source, data_root / folder, cache, "test")
    paths = {
        "vqa_rad": lambda image_id: data_root / folder / VQA_RAD_IMAGES / image_id,
        "slake": lambda image_id: data_root / folder / "imgs" / image_id / "source.jpg",
    }
    for example in examples[::60]:
        image = example.load_image()
        assert image.mode == "RGB" and image.size == example.image_size
        np.testing.assert_array_equal(np.asarray(image), np.asarray(open_image(paths[source](example.image_id))))
    assert "tensorflow" not in sys.modules


def test_each_root_is_prepared_for_itself_and_again_when_it_changes(tmp_path):
    cache = tmp_path / "cache"
    one = write_vqa_rad(tmp_path / "one", [vqa_rad_row(question="One?")])
    two = write_vqa_rad(tmp_path / "two", [vqa_rad_row(question="Two?")])
    assert [load("vqa_rad", root, cache)[0].question for root in (one, two, one)] == ["One?", "Two?", "One?"]
    (one / VQA_RAD_ANNOTATIONS).write_text(json.dumps([vqa_rad_row(question="New?")]))
    assert load("vqa_rad", one, cache)[0].question == "New?"
    Image.new("RGB", (7, 9), "red").save(one / VQA_RAD_IMAGES / "a.png")  # same rows, another picture
    assert load("vqa_rad", one, cache)[0].load_image().size == (7, 9)
    assert len(list((cache / "vqa_rad").iterdir())) == 4  # and nothing half made is left


def test_the_hash_moves_with_the_files_not_with_the_root(tmp_path):
    one = write_vqa_rad(tmp_path / "one", [vqa_rad_row()])
    shutil.copytree(one, tmp_path / "two")
    hashes = []
    for root in (one, tmp_path / "two"):
        hashes.append(content_hash(root, [path for path in root.rglob("*") if path.is_file()]))
    assert hashes[0] == hashes[1] and len(hashes[0]) == 16
    assert content_hash(one, [one / VQA_RAD_ANNOTATIONS]) != hashes[0]


def test_a_preparation_that_comes_second_is_dropped(tmp_path, monkeypatch):
    root = write_vqa_rad(tmp_path / "root", [vqa_rad_row()])
    rename = os.rename

    def lose_the_race(source, target):
        if str(source).endswith("vqa_rad/1.1.0"):
            shutil.copytree(source, target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", lose_the_race)
    assert load("vqa_rad", root, tmp_path / "cache")[0].answer == "Yes"
    assert len(list((tmp_path / "cache" / "vqa_rad").iterdir())) == 1


def test_odd_fields_are_mended(tmp_path):
    rows = [
        vqa_rad_row(qid="0", question="What  is this? ", answer=" left lobe", answer_type="OPEN "),
        vqa_rad_row(qid=1, answer=4, answer_type="OPEN", question_rephrase="How many?", image_organ="NULL"),
        {key: value for key, value in vqa_rad_row(qid=2, question="Größe?").items() if key != "question_rephrase"},
    ]
    first, second, third = load("vqa_rad", write_vqa_rad(tmp_path / "root", rows), tmp_path / "cache")
    assert (first.id, first.question, first.answer) == ("vqa_rad-0", "What is this?", "left lobe")
    assert (first.answer_type, first.paraphrases, first.organ) == ("open", (), "HEAD")
    assert (second.answer, second.paraphrases, second.organ) == ("4", ("How many?",), None)
    assert (third.question, third.paraphrases) == ("Größe?", ())


def test_only_english_questions_of_slake_are_read(tmp_path):
    rows = [slake_row(), slake_row(qid=6, q_lang="zh", question="肺?"), slake_row(qid=1622, answer="")]
    root = write_slake(tmp_path / "root", rows, others=[slake_row(qid=9, img_name="xmlab2/source.jpg")])
    assert [e.id for e in load("slake", root, tmp_path / "cache")] == ["slake-5"]


def test_questions_without_an_answer_are_refused_by_id(tmp_path):
    rows = [vqa_rad_row(qid=i, answer="NULL" if i in (3, 5) else "Yes") for i in range(7)]
    with pytest.raises(ConfigError, match="2 without an answer: vqa_rad-3, vqa_rad-5"):
        load("vqa_rad", write_vqa_rad(tmp_path / "root", rows), tmp_path / "cache")
    root = write_slake(tmp_path / "slake", [slake_row(qid=8, answer=" ")], others=[slake_row(qid=9)])
    with pytest.raises(ConfigError, match="1 without an answer: slake-8"):
        load("slake", root, tmp_path / "cache")


def test_missing_and_damaged_files_are_refused_by_name(tmp_path):
    cache = tmp_path / "cache"
    with pytest.raises(ConfigError, match=f"missing: {VQA_RAD_ANNOTATIONS}, {VQA_RAD_IMAGES}"):
        load("vqa_rad", tmp_path / "nothing", cache)
    with pytest.raises(ConfigError, match="missing: train.json, validate.json, test.json, imgs"):
        load("slake", tmp_path / "nothing", cache)
    rows = [vqa_rad_row(qid=i, image_name=name) for i, name in enumerate(("a.png", "b.png", "c.png"))]
    with pytest.raises(ConfigError, match=r"2 image files are missing: .*b\.png, .*c\.png"):
        load("vqa_rad", write_vqa_rad(tmp_path / "absent", rows), cache)
    root = write_vqa_rad(tmp_path / "cut", rows, images=("a.png", "b.png", "c.png"))
    for name in ("a.png", "c.png"):
        path = root / VQA_RAD_IMAGES / name
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ConfigError, match=r"2 pictures cannot be used: a\.png.*c\.png") as refusal:
        load("vqa_rad", root, cache)
    assert "\n" not in str(refusal.value)
    (root / VQA_RAD_ANNOTATIONS).write_text('[{"qid": 1}')
    with pytest.raises(ConfigError, match=f"{VQA_RAD_ANNOTATIONS}: expected a JSON list"):
        load("vqa_rad", root, cache)
    (root / VQA_RAD_ANNOTATIONS).write_text('[{"qid": 1}]')
    with pytest.raises(ConfigError, match=r"row 0 \(answer, answer_type, image_name"):
        load("vqa_rad", root, cache)


def test_a_folder_that_cannot_be_listed_is_refused_by_name(tmp_path, monkeypatch):
    """Its pictures would not be part of the hash, so that changed ones would be taken for the old."""
    root = write_vqa_rad(tmp_path / "root", [vqa_rad_row()])
    list_folder = os.listdir

    def refuse(folder):
        if Path(folder).name == VQA_RAD_IMAGES:
            raise PermissionError(13, "Permission denied", str(folder))
        return list_folder(folder)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(ConfigError, match=rf"vqa_rad cannot be listed: .*{VQA_RAD_IMAGES} \(Permission denied"):
        load("vqa_rad", root, tmp_path / "cache")


def test_a_file_in_the_place_of_the_picture_folder_holds_no_pictures(tmp_path):
    root = write_vqa_rad(tmp_path / "root", [vqa_rad_row()], images=())
    (root / VQA_RAD_IMAGES).rmdir()
    (root / VQA_RAD_IMAGES).write_text("")
    with pytest.raises(ConfigError, match=r"1 image files are missing: .*a\.png"):
        load("vqa_rad", root, tmp_path / "cache")


def test_a_damaged_picture_of_slake_is_named_with_its_folder(tmp_path):
    """All of them are called source.jpg."""
    root = write_slake(tmp_path / "root", [slake_row(qid=1), slake_row(qid=2, img_name="xmlab2/source.jpg")])
    path = root / "imgs" / "xmlab2" / "source.jpg"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ConfigError, match=r"1 pictures cannot be used: xmlab2/source\.jpg: truncated"):
        load("slake", root, tmp_path / "cache")


def test_every_data_set_is_the_file_of_its_name():
    files = {path.stem for path in Path(readers.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == set(DATA_SETS)
    assert all(isinstance(find_layout(name), Layout) for name in DATA_SETS)


def test_a_data_set_is_one_reader_and_its_name(tmp_path, monkeypatch):
    def read_toy(root):
        def row(number, split):
            picture = root / "pictures" / f"{number % 2}.png"
            question = Example(
                id=str(number), question=f"Is it {number}?", answer=f"{split} {number}", answer_type="open",
                image_id=picture.name, image=None, options=("3", "größer, als", "1") if number == 3 else None,
            )  # fmt: skip
            return Row(question=question, picture=picture)

        return {"dev": [row(number, "dev") for number in (3, 1, 2)], "test": [row(4, "test")], "train": []}

    toy = types.ModuleType("reflex_jax.data.readers.toy")
    toy.LAYOUT = Layout(files=("pictures/*.png",), read=read_toy, version="0.1.0", homepage="https://example.org")
    monkeypatch.setitem(sys.modules, toy.__name__, toy)
    monkeypatch.setattr(config_module, "DATA_SETS", ("toy",))
    root = tmp_path / "root"
    with pytest.raises(ConfigError, match="data.root: toy expects its official files .*; missing: pictures"):
        load("toy", root, tmp_path / "cache", "dev")
    (root / "pictures").mkdir(parents=True)
    for number in range(2):
        Image.effect_noise((30 + number, 20), 80).convert("RGB").save(root / "pictures" / f"{number}.png")
    examples = load("toy", root, tmp_path / "cache", "dev")
    assert [(e.id, e.answer, e.image_size) for e in examples] == [
        ("toy-3", "dev 3", (31, 20)), ("toy-1", "dev 1", (31, 20)), ("toy-2", "dev 2", (30, 20)),
    ]  # fmt: skip
    assert [e.options for e in examples] == [("3", "größer, als", "1"), None, None]
    assert [e.id for e in load("toy", root, tmp_path / "cache", "test")] == ["toy-4"]
    with pytest.raises(ConfigError, match="toy has dev, test; got 'train'"):
        load("toy", root, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache" / "toy").glob("*/toy/*")] == ["0.1.0"]


def test_what_was_prepared_without_a_place_for_options_is_still_read(tmp_path, monkeypatch):
    root = write_vqa_rad(tmp_path / "root", [vqa_rad_row(), vqa_rad_row(qid=2, question="And this?")])
    features, records = question_sets._features(), question_sets._records
    earlier = {name: feature for name, feature in features["questions"].feature.items() if name != "options"}

    def records_without_options(examples):
        for key, record in records(examples):
            for question in record["questions"]:
                del question["options"]
            yield key, record

    with monkeypatch.context() as before:
        sets = {**features, "questions": question_sets.tfds.features.Sequence(earlier)}
        before.setattr(question_sets, "_features", lambda: question_sets.tfds.features.FeaturesDict(sets))
        before.setattr(question_sets, "_records", records_without_options)
        first = load("vqa_rad", root, tmp_path / "cache")
    (stored,) = (tmp_path / "cache").glob("vqa_rad/*/vqa_rad/*/features.json")
    assert "options" not in stored.read_text()
    assert load("vqa_rad", root, tmp_path / "cache") == first
    assert [(e.id, e.options) for e in first] == [("vqa_rad-1", None), ("vqa_rad-2", None)]


def test_an_unknown_split_is_refused_with_those_there_are(tmp_path):
    root = write_vqa_rad(tmp_path / "root", [vqa_rad_row(), vqa_rad_row(qid=2, phrase_type="test_para")])
    with pytest.raises(ConfigError, match="test, train; got 'validation'"):
        load("vqa_rad", root, tmp_path / "cache", "validation")


def test_odd_pictures_and_dicom_are_prepared_as_plain_rgb(data_root, tmp_path):
    files = [
        "odd-images/pil_sample_cmyk.jpg", "odd-images/i_trns.png", "odd-images/pil123p.png",
        "odd-images/hopper_orientation_6.jpg", "dicom/CT_small.dcm",
    ]  # fmt: skip
    root = write_vqa_rad(tmp_path / "root", [vqa_rad_row(qid=f, image_name=f.split("/")[1]) for f in files], images=())
    for file in files:
        shutil.copy(data_root / file, root / VQA_RAD_IMAGES)
    for file, example in zip(files, load("vqa_rad", root, tmp_path / "cache"), strict=True):
        with Image.open(io.BytesIO(example.image)) as stored:
            assert stored.mode == "RGB" and stored.format == "PNG" and not stored.info
            np.testing.assert_array_equal(np.asarray(stored), np.asarray(open_image(data_root / file)))


@pytest.mark.parametrize("source", ["vqa_rad", "slake"])
def test_bytes_and_not_names_decide_how_a_picture_is_read(data_root, tmp_path, source):
    """Prepared pictures keep the names of their files, so a DICOM file's name stands on PNG bytes."""
    pytest.importorskip("pydicom")
    noise = Image.effect_noise((16, 12), 80).convert("RGB")
    noise.save(tmp_path / "png", format="PNG")
    noise.save(tmp_path / "jpeg", format="JPEG")
    files = {
        "MR_small.dcm": data_root / "dicom" / "MR_small.dcm",
        "dicom.jpg": data_root / "dicom" / "CT_small.dcm",
        "bare.png": data_root / "cases" / "bare_dataset.dcm",
        "png.dcm": tmp_path / "png",
        "png.jpg": tmp_path / "png",
        "jpeg.png": tmp_path / "jpeg",
    }
    if source == "vqa_rad":
        root, folder = tmp_path / "root", VQA_RAD_IMAGES
        write_vqa_rad(root, [vqa_rad_row(qid=name, image_name=name) for name in files], images=())
        names = {name: name for name in files}
    else:
        root, folder = tmp_path / "root", "imgs"
        names = {name: f"{name}/source{name[name.index('.') :]}" for name in files}
        rows = [slake_row(qid=number, img_name=names[name]) for number, name in enumerate(files)]
        write_slake(root, [], others=[slake_row(qid=99)])
        (root / "train.json").write_text(json.dumps(rows))
    for name, file in files.items():
        (root / folder / names[name]).parent.mkdir(exist_ok=True)
        shutil.copy(file, root / folder / names[name])
    examples = load(source, root, tmp_path / "cache")
    assert [example.image_id for example in examples] == list(files)
    for example in examples:
        image = example.load_image()
        assert image.mode == "RGB" and image.size == example.image_size
        np.testing.assert_array_equal(np.asarray(image), np.asarray(open_image(files[example.image_id])))


def test_a_picture_of_any_name_is_part_of_the_content_of_slake(tmp_path):
    root = write_slake(tmp_path / "root", [slake_row(img_name="xmlab1/scan.png")], others=[slake_row(qid=9)])
    assert load("slake", root, tmp_path / "cache")[0].load_image().size == (20, 30)
    Image.new("RGB", (7, 9), "red").save(root / "imgs" / "xmlab1" / "scan.png")
    assert load("slake", root, tmp_path / "cache")[0].load_image().size == (7, 9)


def test_what_pictures_say_in_vain_is_counted_in_a_line(data_root, tmp_path, capsys):
    files = pytest.importorskip("tests.picture_files", reason="needs pydicom")
    names = ["a.dcm", "b.dcm", "c.dcm", "d.dcm"]
    root = write_vqa_rad(tmp_path / "root", [vqa_rad_row(qid=n, image_name=n) for n in names], images=())
    for name in names[:2]:
        (root / VQA_RAD_IMAGES / name).write_bytes(files.dicom_bytes(WindowCenter="40", WindowWidth="0"))
    shutil.copy(data_root / "cases" / "padding_3_bytes.dcm", root / VQA_RAD_IMAGES / "c.dcm")
    (root / VQA_RAD_IMAGES / "d.dcm").write_bytes(files.dicom_bytes(StudyInstanceUID=files.Raw(b"Jane Doe")))
    load("vqa_rad", root, tmp_path / "cache")
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines() == [
        "data: 2 of 4 pictures: window ignored: its width is below 1 (a.dcm, b.dcm).",
        "data: 1 of 4 pictures: PixelPaddingValue ignored: it holds no number (c.dcm).",
    ]


def test_pictures_that_cannot_be_read_are_refused_in_their_own_words(tmp_path):
    names = ["folder.png", "empty.png", "page.jpg", "good.png"]
    rows = [vqa_rad_row(qid=name, image_name=name) for name in names]
    root = write_vqa_rad(tmp_path / "root", rows, images=("good.png",))
    (root / VQA_RAD_IMAGES / "folder.png").mkdir()
    (root / VQA_RAD_IMAGES / "empty.png").write_bytes(b"")
    (root / VQA_RAD_IMAGES / "page.jpg").write_text("<!doctype html><html>")
    with pytest.raises(ConfigError) as refusal:
        load("vqa_rad", root, tmp_path / "cache")
    message = str(refusal.value)
    assert message.startswith("3 pictures cannot be used: ") and "\n" not in message
    for words in ("folder.png: expected a file; it is a directory", "empty.png: is empty", "page.jpg: .* an HTML page"):
        assert re.search(words, message)


def test_plain_files_keep_their_bytes_and_metadata_never_stays(tmp_path):
    noise = Image.effect_noise((16, 16), 80).convert("RGB")
    noise.save(tmp_path / "plain.jpg")
    assert image_bytes(tmp_path / "plain.jpg") == ((tmp_path / "plain.jpg").read_bytes(), (16, 16))
    noise.save(tmp_path / "named.jpg", comment=b"Jane Doe")
    data, _ = image_bytes(tmp_path / "named.jpg")
    assert b"Jane" not in data
    with Image.open(io.BytesIO(data)) as stored, Image.open(tmp_path / "named.jpg") as original:
        np.testing.assert_array_equal(np.asarray(stored), np.asarray(original))


def test_phantoms_are_a_source_too():
    data = DataConfig(size=20)
    train, again, other = (load_examples(data, "train", seed=seed) for seed in (0, 0, 1))
    assert len(train) == 20 and [e.question for e in train] == [e.question for e in again]
    assert [e.id for e in train] != [e.id for e in other]
    assert len(load_examples(data, "test", seed=0, size=7)) == 7
    assert train[0].load_image().mode == "RGB" and train[0].load_image().size == train[0].image_size
    with pytest.raises(ConfigError, match="data.split"):
        load_examples(data, "nowhere", seed=0)


def test_a_source_that_there_is_not_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="one of phantom, vqa_rad, slake; got 'slak'. Did you mean 'slake'"):
        DataConfig(source="slak", root="somewhere")


def test_a_set_without_a_root_is_refused():
    with pytest.raises(ConfigError, match="data.root"):
        load_examples(dataclasses.replace(DataConfig(), source="slake"), "train", seed=0)
