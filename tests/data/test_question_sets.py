"""Any layout through the one builder: what is prepared, kept, refused and made anew; VQA-RAD and SLAKE in full."""

import dataclasses
import fcntl
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

from reflex_jax.config import DATA_SETS, ConfigError, DataConfig, PhaseConfig, SourceConfig
from reflex_jax.config import data as config_of_data
from reflex_jax.data import readers, stored_pictures
from reflex_jax.data.examples import Example, Picture, RefusedRow
from reflex_jax.data.layouts import Layout, present, read_json_rows, read_rows
from reflex_jax.data.medical_images import open_image
from reflex_jax.data.picture_files import PictureFiles
from reflex_jax.data.sources import find_layout, load_evaluation, load_examples, load_training, load_validation
from reflex_jax.data.stored_pictures import image_bytes


def load(source, root, cache, split="train", **settings):
    return load_examples(DataConfig(source=source, root=str(root), cache=str(cache), **settings), split, seed=0)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def toy(monkeypatch):
    """A layout of JSON rows, one file a split, and a folder of pictures; returns its module."""
    reads = []

    def read(root, split):
        reads.append(split)
        pictures = PictureFiles(root / "pictures", [root / "pictures.zip"])

        def make(name, row):
            if row.get("refused"):
                return RefusedRow(id=row["id"], reason=row["refused"], is_official=row.get("official", False))
            images = tuple(pictures.find(image) for image in row.pop("images", []))
            lists = {key: tuple(row.pop(key)) for key in ("options", "accepted", "paraphrases") if key in row}
            return Example(**{"answer_type": "open", **row, **lists}, images=images)

        yield from read_rows(((row["id"], row) for row in read_json_rows(root / f"{split}.json")), make)

    module = types.ModuleType("reflex_jax.data.readers.toy")
    module.LAYOUT = Layout(
        splits=lambda root: present(root, {"train": "train.json", "dev": "dev.json"}), read=read,
        files=("*.json", "pictures/**/*"), expects="train.json", version="0.1.0", homepage="https://example.org",
    )  # fmt: skip
    module.reads = reads
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(config_of_data, "DATA_SETS", ("toy",))
    return module


def write(root, rows, split="train", images=("a.png",)):
    for number, name in enumerate(images):
        (root / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((30 + number, 20), 80).convert("RGB").save(root / "pictures" / name)
    root.mkdir(exist_ok=True)
    (root / f"{split}.json").write_text(json.dumps(rows))
    return root


def row(number=1, **changes):
    return {"id": str(number), "question": "Is it?", "answer": "Yes", "images": ["a.png"]} | changes


def test_everything_of_a_row_comes_back(toy, tmp_path):
    rows = [
        row(
            3, options=["3", "größer, als", "1"], accepted=["trois"], paraphrases=["Ist es?", "Est-ce?"], modality="MR"
        ),
        row(
            1, images=["b.png", "a.png", "b.png"], organ="Lung", category="size", reasoning="because", target="<think>"
        ),
        row(2, images=[], answer_type="closed"),
    ]
    root = write(tmp_path / "root", rows, images=("a.png", "b.png"))
    first, second, third = load("toy", root, tmp_path / "cache")
    assert (first.id, first.source, first.options, first.accepted) == (
        "toy-3",
        "toy",
        ("3", "größer, als", "1"),
        ("trois",),
    )
    assert (first.paraphrases, first.modality, first.language) == (("Ist es?", "Est-ce?"), "MRI", "en")
    assert [(p.id, p.size) for p in second.images] == [("b.png", (31, 20)), ("a.png", (30, 20)), ("b.png", (31, 20))]
    assert (second.organ, second.category, second.reasoning, second.target) == ("Lung", "size", "because", "<think>")
    assert (third.images, third.answer_type, third.image_id) == ((), "closed", "")
    for picture in second.images:
        assert picture.load().tobytes() == open_image(root / "pictures" / picture.id).tobytes()
    assert toy.reads == ["train"] and load("toy", root, tmp_path / "cache") == [first, second, third]
    assert toy.reads == ["train"]  # the second time nothing official is read


def test_pictures_are_read_when_they_are_needed(toy, tmp_path, monkeypatch):
    root = write(
        tmp_path / "root", [row(n, images=[f"{n}.png"]) for n in range(9)], images=[f"{n}.png" for n in range(9)]
    )
    load("toy", root, tmp_path / "cache")
    read = []
    monkeypatch.setattr(
        stored_pictures.PictureReader, "read",
        lambda self, number, original=stored_pictures.PictureReader.read: read.append(number) or original(self, number),
    )  # fmt: skip
    examples = load("toy", root, tmp_path / "cache")
    assert read == [0]  # one, to see whether the file is whole
    examples[5].load_images()
    assert len(read) == 2


def test_other_files_are_prepared_anew_and_the_same_ones_are_not(toy, tmp_path):
    cache, deep = tmp_path / "cache", "ct/one/a.png"
    root = write(tmp_path / "root", [row(images=[deep])], images=(deep,))
    assert load("toy", root, cache)[0].question == "Is it?"
    (root / "train.json").write_text(json.dumps([row(images=[deep], question="New?")]))
    assert load("toy", root, cache)[0].question == "New?"
    Image.new("RGB", (7, 9), "red").save(root / "pictures" / deep)  # same rows, another picture in a deep folder
    assert load("toy", root, cache)[0].images[0].load().size == (7, 9)
    assert load("toy", root, cache)[0].images[0].size == (7, 9)
    other = write(tmp_path / "other", [row(question="Other?")])
    assert [load("toy", r, cache)[0].question for r in (root, other, root)] == ["New?", "Other?", "New?"]
    assert len(toy.reads) == 4 and len(list((cache / "toy").iterdir())) == 4  # and nothing half made is left


def test_what_a_killed_preparation_left_goes_and_what_is_being_made_stays(toy, tmp_path):
    root, place = write(tmp_path / "root", [row()]), tmp_path / "cache" / "toy"
    for name in ("x.partial-dead", "x.partial-alive"):
        (place / name).mkdir(parents=True)
        (place / name / "owner.lock").write_text("")
    with (place / "x.partial-alive" / "owner.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        load("toy", root, tmp_path / "cache")
    assert sorted(path.name.split("-")[0] for path in place.iterdir()) == ["train", "x.partial"]


def test_a_preparation_that_comes_second_is_dropped(toy, tmp_path, monkeypatch):
    root = write(tmp_path / "root", [row()])
    rename = os.rename

    def lose_the_race(source, target):
        shutil.copytree(source, target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", lose_the_race)
    assert load("toy", root, tmp_path / "cache")[0].answer == "Yes"
    assert len(list((tmp_path / "cache" / "toy").iterdir())) == 1


@pytest.mark.parametrize("name", ["questions.jsonl", "pictures.array_record", "facts.json", "refused.jsonl"])
@pytest.mark.parametrize("damage", ["cut", "gone", "longer", "zeros"])
def test_a_damaged_cache_is_made_anew(toy, tmp_path, name, damage):
    root = write(tmp_path / "root", [row(), row(2, answer="")])
    settings = {"refused": "leave_out"}
    before = load("toy", root, tmp_path / "cache", **settings)
    (path,) = (tmp_path / "cache" / "toy").glob(f"*/{name}")
    content = path.read_bytes()
    harm = {"cut": content[: len(content) // 2], "longer": content + b"\n[", "zeros": bytes(len(content))}
    path.unlink() if damage == "gone" else path.write_bytes(harm[damage])
    after = load("toy", root, tmp_path / "cache", **settings)
    assert after == before and after[0].images[0].load().size == (30, 20)
    assert len(toy.reads) == 2


def test_prepared_questions_that_somebody_edited_are_made_anew(toy, tmp_path):
    root = write(tmp_path / "root", [row(answer="lung")])
    load("toy", root, tmp_path / "cache")
    (path,) = (tmp_path / "cache" / "toy").glob("*/questions.jsonl")
    path.write_text(path.read_text().replace("lung", "lunk"))  # of the same size
    assert load("toy", root, tmp_path / "cache")[0].answer == "lung"


def test_pictures_that_are_damaged_later_are_named_with_their_folder(toy, tmp_path):
    example = load("toy", write(tmp_path / "root", [row()]), tmp_path / "cache")[0]
    (path,) = (tmp_path / "cache" / "toy").glob("*/pictures.array_record")
    path.write_bytes(b"")
    example = load_without_check(example, path)
    with pytest.raises(ConfigError, match=r"prepared pictures are damaged .* Remove the folder .*train-"):
        example.images[0].load()


def load_without_check(example, path):
    reader = stored_pictures.PictureReader(path)
    return dataclasses.replace(example, images=(Picture(id="a.png", data=lambda: reader.read(0)),))


def test_a_cache_that_cannot_be_written_is_named(toy, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ConfigError, match=r"data.cache: .*cannot be prepared.*Set data.cache=DIR"):
        load("toy", write(tmp_path / "root", [row()]), tmp_path / "cache")


def test_rows_that_cannot_be_used_stop_the_run_all_at_once(toy, tmp_path, capsys):
    rows = [
        row(1), row(2, answer="\u200b"), row(3, images=["b.png"]), row(4, answer=" "), row(5, images=["../a.png"]),
        row(6, images=["cut.png"]), row(7, question="is \ud800?"), row(1, answer="no"),
        row(8, refused="no answer", official=True), row(9, language="zh"),
    ]  # fmt: skip
    root = write(tmp_path / "root", rows, images=("a.png", "cut.png"))
    (root / "pictures" / "cut.png").write_bytes((root / "pictures" / "cut.png").read_bytes()[:300])
    with pytest.raises(ConfigError) as refusal:
        load("toy", root, tmp_path / "cache")
    message = str(refusal.value)
    assert "\n" not in message and "data.refused=leave_out" in message and "toy-8" not in message
    for words in (
        r"no answer \(2 rows\): toy-2, toy-4", r"no picture \(1 rows\): toy-3 \('b.png' is missing\)", "toy-5 .*below the root",
        r"a picture that cannot be used \(1 rows\): toy-6 \(cut.png: truncated", "no UTF-8.*toy-7", "more than once .*toy-1",
    ):  # fmt: skip
        assert re.search(words, message), words
    capsys.readouterr()
    (left,) = load("toy", root, tmp_path / "cache", refused="leave_out")
    said = capsys.readouterr().err
    assert left.id == "toy-1" and left.answer == "Yes"
    assert "toy-8" in said and "toy-2" in said and "1 in another language" in said and said.count("\n") == 1
    both = DataConfig(
        sources=(SourceConfig(name="toy", root=str(root), languages=("zh", "en")),), cache=str(tmp_path / "cache"),
        refused="leave_out",
    )  # fmt: skip
    assert [e.id for e in load_examples(both, "train", seed=0)] == ["toy-1", "toy-9"]


def test_no_usable_row_and_no_files_are_refused(toy, tmp_path):
    root = write(tmp_path / "root", [row(answer="")])
    with pytest.raises(ConfigError, match=r"at least one question that can be used; none in toy \(train\)"):
        load("toy", root, tmp_path / "cache", refused="leave_out")
    with pytest.raises(ConfigError, match="toy in .* has train; got 'test'"):
        load("toy", root, tmp_path / "cache", "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="data.root: toy expects train.json in .*nothing of it is there"):
        load("toy", tmp_path / "empty", tmp_path / "cache")
    with pytest.raises(ConfigError, match="data.root: toy expects a folder"):
        load("toy", tmp_path / "nowhere", tmp_path / "cache")
    (root / "dev.json").mkdir()
    with pytest.raises(ConfigError, match="dev.json: expected a file; it is a directory"):
        load("toy", root, tmp_path / "cache", "dev")
    assert not list((tmp_path / "cache" / "toy").glob("*.partial-*"))


def test_a_folder_that_cannot_be_listed_is_refused_by_name(toy, tmp_path, monkeypatch):
    """Its pictures would not be part of the key, so that changed ones would be taken for the old."""
    root = write(tmp_path / "root", [row()])
    list_folder = os.listdir

    def refuse(folder):
        if Path(folder).name == "pictures":
            raise PermissionError(13, "Permission denied", str(folder))
        return list_folder(folder)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(ConfigError, match=r"toy cannot be listed: .*pictures \(Permission denied"):
        load("toy", root, tmp_path / "cache")


def mixture(root, cache, **settings):
    sources = (
        SourceConfig(name="toy", root=str(root / "one"), label="one"),
        SourceConfig(name="toy", root=str(root / "two"), label="two", limit=settings.pop("limit", None)),
    )
    return DataConfig(sources=sources, cache=str(cache), **settings)


def test_sources_are_mixed_limited_and_excluded(toy, tmp_path, capsys):
    names = [f"{n}.png" for n in range(30)]
    for label in ("one", "two"):
        rows = [row(n, images=[names[n % 30]]) for n in range(60)]
        write(tmp_path / label, rows, images=names)
    write(tmp_path / "one", [row(100, images=[])], split="dev", images=())
    cache = tmp_path / "cache"
    data = mixture(tmp_path, cache)
    assert [e.id for e in load_training(data, seed=0)] == [
        f"{label}-{n}" for label in ("one", "two") for n in range(60)
    ]
    limited = load_training(mixture(tmp_path, cache, limit=7), seed=0)
    assert len(limited) == 67 and [e.id for e in limited[60:]] != [f"two-{n}" for n in range(7)]
    assert [int(e.id[4:]) for e in limited[60:]] == sorted(int(e.id[4:]) for e in limited[60:])
    (tmp_path / "leaks.txt").write_text("# leaked\none-3\ntwo-5 pixels of test\n\nnope-1\n")
    kept = load_training(mixture(tmp_path, cache, exclude=(str(tmp_path / "leaks.txt"),)), seed=0)
    said = capsys.readouterr().err
    assert "2 training questions left out; 1 ids are of no training question: nope-1." in said
    assert len(kept) == 118 and {"one-3", "two-5"}.isdisjoint(e.id for e in kept)
    with pytest.raises(ConfigError, match="data.exclude: .*nowhere.txt"):
        load_training(mixture(tmp_path, cache, exclude=("nowhere.txt",)), seed=0)
    validated = dataclasses.replace(data, validation_split="dev")
    train, held_out = load_training(validated, seed=0, with_validation=True), load_validation(validated, seed=0)
    assert [e.id for e in held_out if e.source == "one"] == ["one-100"]  # its own split
    cut = [e for e in held_out if e.source == "two"]  # a part of its training split, whole pictures
    assert 6 <= len(cut) < 9 and len(train) == 120 - len(cut)
    assert not {e.image_id for e in cut} & {e.image_id for e in train if e.source == "two"}
    evaluated = dataclasses.replace(data, evaluation_split="train")
    assert len(load_evaluation(evaluated, seed=0)) == 120


def test_sources_that_cannot_be_told_apart_or_found_are_refused(toy, tmp_path):
    one = SourceConfig(name="toy", root="x")
    with pytest.raises(ConfigError, match="different labels; got toy twice"):
        DataConfig(sources=(one, one))
    with pytest.raises(ConfigError, match="weight for every source or for none"):
        DataConfig(sources=(dataclasses.replace(one, weight=1.0), dataclasses.replace(one, label="b")))
    with pytest.raises(ConfigError, match="data.phases.sources: expected some of toy; got slake"):
        DataConfig(sources=(one,), phases=(PhaseConfig(sources=("slake",)),))
    rootless = (SourceConfig(name="toy"), SourceConfig(name="toy", label="b"))
    with pytest.raises(ConfigError) as refused:
        load_examples(
            DataConfig(sources=(*rootless, SourceConfig(name="toy", label="c", root=f"{tmp_path}/no"))), "train", seed=0
        )
    needs, expects = str(refused.value).splitlines()
    assert needs == "data.root: toy, b need the directories with their official files; set data.root=DIR."
    assert expects.startswith("data.root: toy expects a folder") and expects.endswith("no' is none.")
    with pytest.raises(ConfigError, match="data.source: expected it or data.sources; got both"):
        DataConfig(source="toy", root="x", sources=(one,))
    below = DataConfig(root="/data", sources=(SourceConfig(name="toy"), dataclasses.replace(one, label="b")))
    assert [source.root for source in below.mixture] == ["/data/toy", "x"]


def test_every_data_set_is_the_file_of_its_name():
    files = {path.stem for path in Path(readers.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == set(DATA_SETS)
    assert all(isinstance(find_layout(name), Layout) for name in DATA_SETS)


def test_odd_pictures_and_dicom_are_prepared_as_plain_rgb(toy, data_root, tmp_path):
    """The bytes decide how a picture is read, whatever its name says; so they do again when the prepared one is read."""
    pytest.importorskip("pydicom")
    files = {
        "cmyk.jpg": "odd-images/pil_sample_cmyk.jpg", "trns.png": "odd-images/i_trns.png", "pal.dcm": "odd-images/pil123p.png",
        "turned.jpg": "odd-images/hopper_orientation_6.jpg", "CT_small.jpg": "dicom/CT_small.dcm",
        "bare.png": "cases/bare_dataset.dcm", "two  spaces .dcm": "dicom/MR_small.dcm",
    }  # fmt: skip
    root = write(tmp_path / "root", [row(n, images=[name]) for n, name in enumerate(files)], images=())
    (root / "pictures").mkdir()
    for name, file in files.items():
        shutil.copy(data_root / file, root / "pictures" / name)
    for (name, file), example in zip(files.items(), load("toy", root, tmp_path / "cache"), strict=True):
        (picture,) = example.images
        with Image.open(io.BytesIO(picture.read())) as stored:
            assert stored.mode == "RGB" and stored.format == "PNG" and not stored.info
            np.testing.assert_array_equal(np.asarray(stored), np.asarray(open_image(data_root / file)))
        assert picture.id == name and picture.load().size == picture.size


def test_what_pictures_say_in_vain_is_counted_in_a_line(toy, data_root, tmp_path, capsys):
    files = pytest.importorskip("tests.picture_files", reason="needs pydicom")
    names = ["a.dcm", "b.dcm", "c.dcm", "d.dcm"]
    root = write(tmp_path / "root", [row(n, images=[n]) for n in names], images=())
    (root / "pictures").mkdir()
    for name in names[:2]:
        (root / "pictures" / name).write_bytes(files.dicom_bytes(WindowCenter="40", WindowWidth="0"))
    shutil.copy(data_root / "cases" / "padding_3_bytes.dcm", root / "pictures" / "c.dcm")
    (root / "pictures" / "d.dcm").write_bytes(files.dicom_bytes(StudyInstanceUID=files.Raw(b"Jane Doe")))
    load("toy", root, tmp_path / "cache")
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines() == [
        "data: 2 of 4 pictures: window ignored: its width is below 1 (a.dcm, b.dcm).",
        "data: 1 of 4 pictures: PixelPaddingValue ignored: it holds no number (c.dcm).",
    ]


def test_plain_files_keep_their_bytes_and_metadata_never_stays(tmp_path):
    noise = Image.effect_noise((16, 16), 80).convert("RGB")
    noise.save(tmp_path / "plain.jpg")
    noise.save(tmp_path / "named.jpg", comment=b"Jane Doe")
    plain, named = (Picture(id=name, data=tmp_path / name) for name in ("plain.jpg", "named.jpg"))
    assert image_bytes(plain) == ((tmp_path / "plain.jpg").read_bytes(), (16, 16))
    data, _ = image_bytes(named)
    assert b"Jane" not in data
    with Image.open(io.BytesIO(data)) as stored, Image.open(tmp_path / "named.jpg") as original:
        np.testing.assert_array_equal(np.asarray(stored), np.asarray(original))


def test_pictures_of_equal_bytes_are_kept_once(toy, tmp_path):
    root = write(tmp_path / "root", [row(n, images=[f"{n}.png"]) for n in range(4)], images=("0.png",))
    for n in (1, 2, 3):
        shutil.copy(root / "pictures" / "0.png", root / "pictures" / f"{n}.png")
    examples = load("toy", root, tmp_path / "cache")
    assert len({e.images[0].digest for e in examples}) == 1 and [e.image_id for e in examples] == [
        f"{n}.png" for n in range(4)
    ]
    (path,) = (tmp_path / "cache" / "toy").glob("*/pictures.array_record")
    assert len(stored_pictures.ArrayRecordDataSource(str(path))) == 1


def test_phantoms_are_a_source_too():
    data = DataConfig(size=20)
    train, again, other = (load_examples(data, "train", seed=seed) for seed in (0, 0, 1))
    assert len(train) == 20 and [e.question for e in train] == [e.question for e in again]
    assert [e.id for e in train] != [e.id for e in other] and {e.source for e in train} == {"phantom"}
    picture = train[0].images[0]
    assert picture.load().mode == "RGB" and picture.load().size == picture.size
    with pytest.raises(ConfigError, match="data.split"):
        load_examples(data, "nowhere", seed=0)


def test_a_source_that_there_is_not_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="one of phantom, vqa_rad, slake, .*; got 'slak'. Did you mean 'slake'"):
        DataConfig(source="slak", root="somewhere")


def test_a_set_without_a_root_is_refused():
    with pytest.raises(
        ConfigError, match="data.root: slake needs the directory with its official files; set data.root=DIR"
    ):
        load_examples(DataConfig(source="slake"), "train", seed=0)
