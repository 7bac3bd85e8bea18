"""Parquet files with pictures, and the sets that come so: VQA-RAD, PathVQA (and its pickles), MMMU, MediX-R1."""

import hashlib
import io
import pickle
import shutil
from pathlib import Path

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from reflex_jax.config import ConfigError
from reflex_jax.data import parquet_rows as parquet_rows_module
from reflex_jax.data.examples import Example, RefusedRow, RowError
from reflex_jax.data.parquet_rows import find_shards, parquet_rows, pictures_of
from reflex_jax.data.picture_files import PictureFiles
from reflex_jax.data.readers import medix, mmmu, path_vqa, vqa_rad

PICTURE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def read(reader, root, split):
    return list(reader.LAYOUT.read(root, split))


def read_all(reader, root):
    return {split: read(reader, root, split) for split in reader.LAYOUT.splits(root)}


def refusals(rows):
    return {row.id: row.reason for row in rows if isinstance(row, RefusedRow)}


def png(grey=0):
    data = io.BytesIO()
    Image.new("L", (4, 3), grey).save(data, "PNG")
    return data.getvalue()


def write(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    types = {"image": PICTURE, "images": pyarrow.list_(PICTURE)}
    arrays = {name: pyarrow.array(values, types.get(name)) for name, values in columns.items()}
    parquet.write_table(pyarrow.table(arrays), path)


# --- the files themselves


def test_rows_are_read_a_few_at_a_time(tmp_path, monkeypatch):
    write(tmp_path / "train.parquet", question=[str(number) for number in range(100)], answer=["yes"] * 100)
    seen = []
    batches = parquet.ParquetFile.iter_batches

    def count(file, **options):
        for batch in batches(file, **options):
            seen.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(parquet_rows_module.parquet.ParquetFile, "iter_batches", count)
    rows = parquet_rows([tmp_path / "train.parquet"], ("question",))
    assert next(rows) == {"question": "0"} and seen == [16]
    assert len(list(rows)) == 99 and max(seen) == 16


def test_shards_are_found_in_their_order_and_counted(tmp_path):
    names = [
        "train-00001-of-00002-eb8844602202be60.parquet", "train-00000-of-00002-eb8844602202be60.parquet",
        "test-2.parquet", "test-10.parquet", "train-small.parquet",
    ]  # fmt: skip
    for name in names:
        write(tmp_path / "data" / name, question=["a"])
    found = {split: [path.name for path in paths] for split, paths in find_shards(tmp_path).items()}
    assert found == {"train": names[1::-1], "test": names[2:4], "train-small": names[4:]}
    write(tmp_path / "data" / "train-00000-of-00002-aaaaaaaaaaaaaaaa.parquet", question=["b"])
    with pytest.raises(ConfigError, match="one set of files of split train; got train-00000-of-00002-aaaa"):
        find_shards(tmp_path)
    for path in (tmp_path / "data").glob("train-00000*"):
        path.unlink()
    with pytest.raises(ConfigError, match="split train has 2 parquet files; missing: those numbered 0"):
        find_shards(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"version https://git-lfs.github.com/spec/v1\n", b"PAR1" * 30])
def test_damaged_parquet_files_are_refused_by_name(tmp_path, content):
    (tmp_path / "test.parquet").write_bytes(content)
    with pytest.raises(ConfigError, match=r"test\.parquet: cannot be read as parquet \(.*git lfs pull") as refusal:
        read(vqa_rad, tmp_path, "test")
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_damaged_inside_is_refused_by_name(tmp_path):
    write(tmp_path / "test.parquet", question=["a" * 5000], answer=["yes"], image=[{"bytes": png()}])
    data = bytearray((tmp_path / "test.parquet").read_bytes())
    data[4:60] = b"\xff" * 56
    (tmp_path / "test.parquet").write_bytes(bytes(data))
    with pytest.raises(ConfigError, match=r"test\.parquet: cannot be read as parquet"):
        read(vqa_rad, tmp_path, "test")


def test_wrong_columns_are_refused_with_the_nearest(tmp_path):
    write(tmp_path / "test.parquet", questions=["a"], answer=["yes"], image=[{"bytes": png()}])
    with pytest.raises(ConfigError, match="missing: question; got questions, answer, image. Did you mean 'questions'?"):
        read(vqa_rad, tmp_path, "test")


def test_a_picture_cell_has_bytes_or_a_path(tmp_path, save_picture):
    save_picture(tmp_path / "a.png")
    find = PictureFiles(tmp_path).find
    digest = hashlib.sha256(png()).hexdigest()[:16]
    cells = [
        png(),
        {"bytes": png(), "path": "lost.png"},
        {"bytes": None, "path": "a.png"},
        {"bytes": b"", "path": "a.png"},
    ]
    assert [picture.id for picture in pictures_of([*cells, "a.png"], find)] == [digest, digest, *["a.png"] * 3]
    for cell in (None, {}, {"bytes": None, "path": None}, [], [png(), None], 7, "lost.png", {"path": "lost.png"}):
        with pytest.raises(RowError, match="no picture"):
            pictures_of(cell, find)


# --- VQA-RAD and PathVQA on the hub


def test_vqa_rad_of_the_hub_is_typed_by_rule(formats):
    train, test = read_all(vqa_rad, formats / "vqa-rad-hf").values()
    assert [row.answer_type for row in train] == ["closed", "open", "open", "open", "open", "closed"]
    assert [row.answer_type for row in test] == ["closed", "closed", "open", "open"]
    assert train[4] == Example(
        id="train-4",
        question="describe the border of the focus",
        answer="smooth, well defined",
        answer_type="open",
        images=train[4].images,
    )
    assert train[0].images == train[1].images == test[0].images and train[2].images == test[3].images
    assert all(row.load_images()[0].mode == "RGB" for row in [*train, *test])


def test_rows_of_triples_that_cannot_be_used_are_refused(tmp_path):
    write(
        tmp_path / "data" / "test-00000-of-00001.parquet",
        image=[{"bytes": png()}, None, {"bytes": png()}, {"bytes": png()}, {"bytes": None, "path": "a.png"}],
        question=["Is it?", "Is it?", None, "Is it?", "Is it?"],
        answer=["yes", "yes", "yes", "NULL", "yes"],
    )
    assert vqa_rad.LAYOUT.splits(tmp_path) == ["test"]
    assert refusals(read(vqa_rad, tmp_path, "test")) == {
        "test-1": "no picture", "test-2": "no question", "test-3": "no answer", "test-4": "no picture",
    }  # fmt: skip


def test_path_vqa_of_the_hub_keeps_shards_answers_and_cmyk(formats):
    found = read_all(path_vqa, formats / "path-vqa-hf")
    assert {split: [row.id for row in rows] for split, rows in found.items()} == {
        "train": [f"train-{number}" for number in range(4)],
        "validation": ["validation-0", "validation-1"],
        "test": ["test-0", "test-1", "test-2"],
    }
    first, second = found["validation"]
    assert first.images == second.images and first.question == second.question
    assert (first.answer, second.answer) == ("disc", "outline")
    assert found["test"][0].answer == "as a thin, 2-layered, pale band (arrow)"
    assert found["train"][2].load_images()[0].mode == "RGB"  # CMYK in the file


# --- PathVQA as its authors packed it


def write_pickle(root, rows, name="test_vqa.pkl"):
    path = root / "pvqa" / "qas" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(rows if isinstance(rows, bytes) else pickle.dumps(rows))


def pickled_row(**changes):
    row = {
        "question_id": 300, "img_id": "test_0000", "sent": "Is it?", "label": {"no": 1}, "answer_type": "yes/no",
        "question_type": "yes/no",
    }  # fmt: skip
    return row | changes


def test_path_vqa_of_its_authors_has_their_numbers_and_kinds(formats):
    found = read_all(path_vqa, formats / "pvqa-original")
    assert [len(rows) for rows in found.values()] == [3, 1, 2]
    assert found["train"][2] == Example(
        id="100002000",
        question="How many discs are there?",
        answer="2",
        answer_type="open",
        images=found["train"][2].images,
        category="how many/how much",
    )
    assert found["validation"][0].image_id == "val/val_0000.jpg"
    assert [row.answer_type for rows in found.values() for row in rows].count("closed") == 2
    assert all(row.load_images() for rows in found.values() for row in rows)


def test_bare_pickles_are_numbered_by_their_rows(formats, tmp_path):
    shutil.copytree(formats / "pvqa-original" / "pvqa", tmp_path, dirs_exist_ok=True)  # without the folder of that name
    (tmp_path / "qas" / "test_vqa.pkl").unlink()
    found = read(path_vqa, tmp_path, "test")
    assert [(row.id, row.answer, row.category) for row in found] == [("test-0", "no", None), ("test-1", "disc", None)]


def test_odd_pickled_rows_are_mended_or_refused(tmp_path, save_picture):
    save_picture(tmp_path / "pvqa" / "images" / "test" / "test_0000.jpg")
    rows = [
        pickled_row(question_id=1, label={"gap": 0.3, "a gap": 1}),
        pickled_row(question_id=2, label={}, sent="What?"),
        pickled_row(question_id=3, label={}, sent="Where?"),
        pickled_row(question_id=4, label={"no": "1"}),
        pickled_row(question_id=5, label=["no"]),
        pickled_row(question_id=6, img_id="test_0001"),
        pickled_row(question_id=7, img_id=None),
        pickled_row(question_id=None, img_id="test_0000.jpg"),
        pickled_row(question_id=9, label=None, sent="Who?"),
    ]
    write_pickle(tmp_path, rows)
    bare = [{"image": "test_0000", "question": "What?", "answer": "disc"}]
    bare += [{"image": "test_0000", "question": "Who?", "answer": ["x"]}]
    write_pickle(tmp_path, bare, "test/test_qa.pkl")
    found = read(path_vqa, tmp_path, "test")
    assert (found[0].answer, found[0].accepted, found[1].answer) == ("a gap", ("gap",), "disc")
    assert refusals(found) == {
        "3": "no answer", "4": "a label in another form", "5": "answer", "6": "no picture", "7": "no picture",
        "9": "answer",
    }  # fmt: skip
    assert found[-2].id == "test-7" and found[-2].image_id == found[0].image_id == "test/test_0000.jpg"


class Trap:
    """What a pickle that runs code looks like."""

    def __reduce__(self):
        return (print, ("this must not be printed",))


@pytest.mark.parametrize(
    "content, expected",
    [
        (pickle.dumps([Trap()]), "it names builtins.print"),
        (pickle.dumps([{"label": {1, 2}, "odd": RowError}]), "it names reflex_jax.data.examples.RowError"),
        (pickle.dumps([pickled_row()])[:40], "cannot be read"),
        (b"", "cannot be read"),
        (b"version https://git-lfs", "cannot be read"),
        (pickle.dumps({"a": 1}), "got another layout"),
        (pickle.dumps([{"question_id": 1}]), "expected a list of questions with question_id, img_id, sent, label"),
    ],
)
def test_pickles_run_nothing_and_wrong_ones_are_refused_by_name(tmp_path, capsys, content, expected):
    write_pickle(tmp_path, content)
    with pytest.raises(ConfigError, match=rf"test_vqa\.pkl: .*{expected}"):
        read(path_vqa, tmp_path, "test")
    assert not capsys.readouterr().out


# --- MMMU


def mmmu_row(**changes):
    row = {
        "id": "dev_Pharmacy_1", "question": "Which? <image 1>", "options": "['a', 'b']", "explanation": "",
        "answer": "B", "image_1": {"bytes": b"1"}, "image_2": {"bytes": b"2"}, "image_3": None,
    }  # fmt: skip
    return row | changes


def make_mmmu(split="validation", **changes):
    return mmmu._make(split, "Pharmacy", PictureFiles(Path("nowhere")), "x", mmmu_row(**changes))


def test_mmmu_has_its_subjects_pictures_and_options(formats):
    found = read_all(mmmu, formats / "mmmu")
    assert {split: len(rows) for split, rows in found.items()} == {"dev": 5, "validation": 10, "test": 5}
    assert {(row.reason, row.is_official) for row in found["test"]} == {("the answer is withheld", True)}
    rows = {row.id.removeprefix("validation_"): row for row in found["validation"]}
    assert rows["Basic_Medical_Science_1"] == Example(
        id="validation_Basic_Medical_Science_1",
        question=(
            'What is the disc in <image 1> called?\nA. Toy disc\nB. Someone\'s disc\nC. He said "disc"\nD. None of these'
        ),
        answer="Someone's disc",
        answer_type="closed",
        images=rows["Basic_Medical_Science_1"].images,
        options=("Toy disc", "Someone's disc", 'He said "disc"', "None of these"),
        category="Basic_Medical_Science",
        reasoning="An invented explanation.",
    )
    opened = {name: row.answer for name, row in rows.items() if row.answer_type == "open"}
    assert opened == {"Basic_Medical_Science_2": "Folding", "Pharmacy_1": "2", "Pharmacy_2": "B"}
    assert [len(row.options or ()) for row in found["validation"]] == [4, 0, 4, 6, 2, 3, 0, 0, 4, 3]
    assert rows["Diagnostics_and_Laboratory_Medicine_2"].options[1] == "A\\B"
    assert len(rows["Clinical_Medicine_1"].images) == 5 and rows["Clinical_Medicine_1"].answer == "<image 5>"
    assert all(row.load_images() for row in found["validation"])


def test_marks_of_mmmu_count_the_pictures_as_they_are_shown(formats):
    """The policy sees the pictures in their order and no names, so <image 2> has to be the second one."""
    rows = {row.id: row for row in read(mmmu, formats / "mmmu", "validation")}
    turned, straight = rows["validation_Clinical_Medicine_2"], rows["validation_Clinical_Medicine_1"]
    assert turned.question.startswith("Compare <image 1> with <image 2>.")
    assert turned.images == straight.images[1::-1]
    gap = rows["validation_Public_Health_2"]
    assert gap.question.startswith("Which rows of <image 1> are equal to <image 2>?") and len(gap.images) == 2


def test_odd_rows_of_mmmu_are_mended_or_refused():
    assert [picture.data for picture in make_mmmu(question="Which?").images] == [
        b"1",
        b"2",
    ]  # no marks: the columns' order
    assert [picture.data for picture in make_mmmu(options="['<image 2>', 'b']", question="?").images] == [b"2", b"1"]
    assert make_mmmu(options=["a", "b"], answer="a").answer == "a"
    several = make_mmmu(options="[]", answer="['0.5', '1/2']")
    assert (several.answer, several.accepted, several.options) == ("0.5", ("1/2",), None)
    for answer in ("", "?", None, "[]"):
        assert make_mmmu("test", answer=answer).is_official
    assert make_mmmu("test", answer="B").answer == "b"
    faults = {
        "no answer": {"answer": "?"},
        "the letter names no option": {"answer": "C"},
        "the answer is none of the options": {"answer": "c"},
        "options in another form": {"options": "['a', open('x')]"},
        "no picture: <image 3> is empty": {"question": "Which? <image 3>"},
        "no picture$": {"question": "Which?", "image_1": None, "image_2": None},
        "no question": {"question": " "},
    }
    for expected, changes in faults.items():
        with pytest.raises(RowError, match=expected):
            make_mmmu(**changes)


def test_mmmu_without_a_subject_is_refused_by_its_name(formats, tmp_path):
    shutil.copytree(formats / "mmmu", tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "Pharmacy")
    with pytest.raises(ConfigError, match="of 5 subjects; missing: Pharmacy. Download"):
        read(mmmu, tmp_path, "validation")
    assert mmmu.LAYOUT.splits(tmp_path / "nothing") == []


# --- MediX-R1


def test_medix_has_its_kinds_of_pictures_before_the_answers(formats):
    train, test = read_all(medix, formats / "medix-rl-data").values()
    assert [(row.id, row.modality, row.answer) for row in [*train, *test]] == [
        ("toyset_0", "CT_SCAN", "a dark disc"),
        ("toyset_1", "MICROSCOPY", "more than 2 (> 2)"),
        ("toybook_2", "X_RAY", "Yes."),
        ("toyset_3", "MRI_SCAN", "a bright disc and / or a line"),
        ("toybook_4", "OTHER", "Star"),
    ]
    assert test[1] == Example(
        id="toybook_4",
        question="Which shape is marked?\nA. Disc\nB. Star",
        answer="Star",
        answer_type="closed",
        images=test[1].images,
        options=("Disc", "Star"),
        modality="OTHER",
        category="toybook",
    )
    assert all(row.load_images()[0].mode == "RGB" for row in [*train, *test])


def test_odd_rows_of_medix_are_mended_or_refused(tmp_path):
    lettered, two = "Which?\nA. Disc\nB. Star", [{"bytes": png()}, {"bytes": png(9)}]
    write(
        tmp_path / "test.parquet",
        id=["0", "1", "2", "3", "4"],
        image=[{"bytes": png()}] * 5,
        problem=[lettered, lettered, "How many?", "What?", "What?"],
        solution=["<CT>B", "<CT>Neither", "more than 2 (> 2)", "<CT> ", None],
    )
    found = read(medix, tmp_path, "test")
    assert [(row.answer, row.options, row.modality, row.category) for row in found[:3]] == [
        ("Star", ("Disc", "Star"), "CT", None), ("Neither", None, "CT", None), ("more than 2 (> 2)", None, None, None),
    ]  # fmt: skip
    assert refusals(found) == {"3": "no answer", "4": "no answer"}
    table = {
        "id": ["0"],
        "image": pyarrow.array([two], pyarrow.list_(PICTURE)),
        "problem": ["?"],
        "solution": ["<CT>a"],
    }
    parquet.write_table(pyarrow.table(table), tmp_path / "test.parquet")
    assert [picture.data for picture in read(medix, tmp_path, "test")[0].images] == [png(), png(9)]
