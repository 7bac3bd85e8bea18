"""PMC-VQA, MedXpertQA, OmniMedVQA, Med-R1, MedVLM-R1, Huatuo evaluation data: their toy copies, and what is beside them."""

import csv
import json
import shutil
import zipfile

import pytest
from PIL import Image

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example, RefusedRow
from reflex_jax.data.readers import med_r1, medical_multimodal_eval, medvlm_r1, medxpertqa, omnimedvqa, pmc_vqa


def read(reader, root, split):
    return list(reader.LAYOUT.read(root, split))


def read_one(reader, root, split):
    (row,) = read(reader, root, split)
    return row


def shape_of(reader, root):
    """split -> (questions, refused rows)"""
    kinds = {split: [type(row) for row in read(reader, root, split)] for split in reader.LAYOUT.splits(root)}
    return {split: (found.count(Example), found.count(RefusedRow)) for split, found in kinds.items()}


def save_picture(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 3)).save(path, "PNG")


ODD = (
    None,
    True,
    3,
    2.5,
    float("nan"),
    "",
    "  ",
    "NULL",
    "\0",
    [],
    ["x"],
    [None],
    {},
    {"A": ["x"]},
    [{"letter": 1}],
    "x" * 5000,
)


def odd_rows(row):
    """The row, and a copy of it with each odd value in each field but its id."""
    fields = [field for field in row if field not in ("id", "question_id")]
    return [row, *(row | {field: value} for field in fields for value in ODD)]


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# --- PMC-VQA

V1 = ["Figure_path", "Question", "Answer", "Choice A", "Choice B", "Choice C", "Choice D", "Answer_label"]
V2 = ["index", "Figure_path", "Caption", "Question", "Choice A", "Choice B", "Choice C", "Choice D", "Answer", "split"]


def write_pmc(root, name, header, *rows, encoding="utf-8"):
    save_picture(root / "images/a.jpg", root / "figures/a.jpg")
    with (root / name).open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([header, *rows])
    return root


def test_pmc_vqa_has_the_splits_of_both_versions(formats):
    root = formats / "pmc-vqa"
    assert shape_of(pmc_vqa, root) == {
        "train": (2, 0), "test": (1, 0), "test_clean": (1, 0), "train_2": (2, 0), "test_2": (2, 1)
    }  # fmt: skip
    first = read(pmc_vqa, root, "train")[0]
    assert first == Example(
        id="train-0",
        question="What does panel B show?\nA. A bright disc\nB. A dark disc\nC. Two lines\nD. Nothing",
        answer="A dark disc",
        answer_type="closed",
        images=first.images,
        options=("A bright disc", "A dark disc", "Two lines", "Nothing"),
    )
    assert [picture.id for picture in first.images] == ["images/PMC0000001_F1.jpg"] and first.load_images()
    spaced = read(pmc_vqa, root, "train_2")[1]  # its letter has a blank before it, the caption before it a line break
    assert (spaced.id, spaced.answer, spaced.image_id) == ("train_2-1", "Bright", "figures/PMC0000003_Fig1_1.jpg")
    left, mixed, lost = read(pmc_vqa, root, "test_2")
    assert (
        left.answer == "Both" and mixed.answer == "a gap" and mixed.options == ("a band", "a gap", "a line", "nothing")
    )
    assert (lost.id, lost.is_official) == ("test_2-2", False) and lost.reason.startswith("no picture")


@pytest.mark.parametrize(
    "archive, folder, split", [("images.zip", "images", "test"), ("images_2.zip", "images_2/figures", "test_2")]
)
def test_pmc_vqa_pictures_may_be_unpacked(formats, tmp_path, archive, folder, split):
    root = shutil.copytree(formats / "pmc-vqa", tmp_path / "root")
    with zipfile.ZipFile(root / archive) as file:
        file.extractall(root / folder.split("/")[0] if "/" in folder else root)
    (root / archive).unlink()
    example = read(pmc_vqa, root, split)[0]
    assert example.image_id.startswith(f"{folder}/") and example.load_images()
    (root / example.image_id).unlink()
    assert read(pmc_vqa, root, split)[0].reason.startswith("no picture")


@pytest.mark.parametrize(
    "header, row, answer",
    [
        # old revisions: the misspelt column holds the option's text, its own letter before it
        (["Figure_path", "Caption", "Question", "Choice A", "Choice B", "Choice C", "Choice D", "Anwser"],
         ["a.jpg", "cap", "Which?", " A:Left", " B:Right", " C:Both", " D:None", " B:Right"], "Right"),
        ([*V1[:-1], "Anwser_label"], ["a.jpg", "Which?", "Left", "A:Left", "B:Right", "C:Both", "D:None", " A "], "Left"),
        # a letter that is also the text of another option: version 2 gives the letter, version 1 both
        (V2, ["7", "a.jpg", "cap", "Which panel?", "B", "A", "D", "C", "B", "test"], "A"),
        (V1, ["a.jpg", "Which panel?", "B", "B", "A", "D", "C", "A"], "B"),
        (V2, ["7", "a.jpg", "cap", "Which?", "A: x", "B: y", "", "", "B", "test"], "y"),
    ],
)  # fmt: skip
def test_pmc_vqa_answers_of_all_revisions(tmp_path, header, row, answer):
    root = write_pmc(tmp_path, "test.csv", header, row, encoding="utf-8-sig")
    example = read_one(pmc_vqa, root, "test")
    assert example.answer == answer and example.id == ("test-7" if header is V2 else "test-0")


@pytest.mark.parametrize(
    "row, reason",
    [
        (["a.jpg", "Which?", "Left", "A:Left", "B:Right", "C:Both", "D:None", "B"], "letter and text of the answer disagree"),
        (["a.jpg", "Which?", "Top", "A:Left", "B:Right", "C:Both", "D:None", ""], "the answer is none of the options"),
        (["a.jpg", "Which?", "", "A:Left", "B:Right", "C:Both", "D:None", "E"], "the letter names no option"),
        (["a.jpg", "Which?", "", "A:Left", "B:Right", "C:Both", "D:None", ""], "no answer"),
        (["a.jpg", "Which?", "Left", "A:Left", "", "C:Both", "D:None", "A"], "an option without text"),
        (["", "Which?", "Left", "A:Left", "B:Right", "C:Both", "D:None", "A"], "no picture"),
        (["../a.jpg", "Which?", "Left", "A:Left", "B:Right", "C:Both", "D:None", "A"], "picture"),
        (["a.jpg", "Which, of, these?"], "another number of cells than columns"),
    ],
)  # fmt: skip
def test_pmc_vqa_refuses_a_row_and_goes_on(tmp_path, row, reason):
    good = ["a.jpg", "Which?", "Left", "A:Left", "B:Right", "C:Both", "D:None", "A"]
    refused, example = read(pmc_vqa, write_pmc(tmp_path, "train.csv", V1, row, good), "train")
    assert refused.reason.startswith(reason) and refused.id == "train-0" and example.id == "train-1"


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "missing: \\['Figure_path'"),
        (",".join(V1[:-2]).encode(), "missing: \\['Choice D'\\]"),
        ((",".join(V1) + "\na.jpg,Which?,Left,A:Left").encode(), "the last row has not as many cells"),
        ((",".join(V1) + '\na.jpg,"Which').encode(), "cannot be read as CSV"),
        (b"PK\3\4\xff\xfe\0", "cannot be read as CSV"),
    ],
)
def test_pmc_vqa_wrong_files_are_named(tmp_path, content, said):
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(ConfigError, match=f"train.csv: .*{said}") as error:
        read(pmc_vqa, tmp_path, "train")
    assert "\n" not in str(error.value)


# --- MedXpertQA


def test_medxpertqa_has_pictures_in_order_and_options_once(formats):
    root = formats / "medxpertqa"
    assert shape_of(medxpertqa, root) == {"test": (3, 1), "dev": (1, 0), "text_test": (1, 0), "text_dev": (1, 0)}
    two, one, five, lost = read(medxpertqa, root, "test")
    assert (two.id, two.answer, two.answer_type, two.organ, two.category) == (
        "MM-0", "A dark disc", "closed", "Skeletal", "Reasoning"
    )  # fmt: skip
    assert [picture.id for picture in two.images] == ["images/MM-0-a.jpeg", "images/MM-0-b.png"]
    assert all(e.question.count(e.options[0]) == 1 and "Answer Choices: (A)" in e.question for e in (two, one))
    assert one.image_id == "images/MM-1-a.JPG" and len(five.images) == 5 and five.organ is None  # "Other / NA"
    assert five.answer == "Figure E" and len(five.load_images()) == 5
    assert (lost.id, lost.is_official) == ("MM-3", False) and lost.reason.startswith("no picture")
    text = read_one(medxpertqa, root, "text_test")
    assert text.images == () and len(text.options) == 10 and text.answer == "Toy option number 10"


def medxpertqa_input_row(**changes):
    row = {
        "id": "MM-7", "question": "Which?\nAnswer Choices: (A) a disc (B) a line", "label": ["B"],
        "options": [{"letter": "A", "content": "a disc"}, {"letter": "B", "content": "a line"}],
        "images": [{"image_path": "somewhere/MM-7-a.png"}, {"image_path": "MM-7-b.png"}],
    }  # fmt: skip
    return row | changes


def test_medxpertqa_reads_the_evaluation_input_of_its_repository(tmp_path):
    save_picture(tmp_path / "images/MM-7-a.png", tmp_path / "images/MM-7-b.png")
    bare = medxpertqa_input_row(id="MM-8", question="Which?")
    write_jsonl(tmp_path / "eval/data/medxpertqa/input/medxpertqa_mm_input.jsonl", [medxpertqa_input_row(), bare])
    assert medxpertqa.LAYOUT.splits(tmp_path) == ["test"]
    listed, unlisted = read(medxpertqa, tmp_path, "test")
    assert listed.question == "Which?\nAnswer Choices: (A) a disc (B) a line"
    assert unlisted.question == "Which?\nA. a disc\nB. a line"
    assert listed.answer == "a line" and [p.id for p in listed.images] == ["images/MM-7-a.png", "images/MM-7-b.png"]
    patterns = medxpertqa.LAYOUT.files
    assert len({path for pattern in patterns for path in tmp_path.glob(pattern) if path.is_file()}) == 3


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"images": []}, "no picture"),
        ({"images": None}, "no picture"),
        ({"images": "MM-7-a.png"}, "no picture"),
        ({"images": [None]}, "no picture"),
        ({"label": ["A", "B"]}, "expected one right letter"),
        ({"label": "C"}, "the letter names no option"),
        ({"label": None}, "no answer"),
        ({"options": {"A": "a disc", "C": "a line"}}, "options"),
    ],
)
def test_medxpertqa_refuses_a_row(tmp_path, changes, reason):
    save_picture(tmp_path / "images/MM-7-a.png", tmp_path / "images/MM-7-b.png")
    write_jsonl(tmp_path / "MM/test.jsonl", [medxpertqa_input_row(**changes)])
    row = read_one(medxpertqa, tmp_path, "test")
    assert row.id == "MM-7" and row.reason.startswith(reason)


@pytest.mark.parametrize(
    "line, said",
    [
        ('{"id": "MM-1", "quest', "line 2 is no JSON"),
        ('{"id": 1}', "line 2: expected an object with id"),
        ("[1]", "line 2"),
    ],
)
def test_medxpertqa_wrong_files_are_named(tmp_path, line, said):
    path = tmp_path / "Text/dev.jsonl"
    write_jsonl(path, [medxpertqa_input_row()])
    path.write_text(path.read_text() + line)
    with pytest.raises(ConfigError, match=f"dev.jsonl: {said}"):
        read(medxpertqa, tmp_path, "text_dev")


# --- OmniMedVQA


def test_omnimedvqa_is_read_as_a_whole_or_by_its_parts(formats):
    root = formats / "omnimedvqa"
    assert shape_of(omnimedvqa, root) == {"all": (4, 1), "open_access": (4, 0), "restricted": (0, 1)}
    chest, eye, three, two, closed = read(omnimedvqa, root, "all")
    assert chest == Example(
        id="Chest CT Scan_0000",
        question="Which body part is drawn?\nA. Toy head\nB. Toy chest\nC. Toy knee\nD. Toy foot",
        answer="Toy chest",
        answer_type="closed",
        images=chest.images,
        options=("Toy head", "Toy chest", "Toy knee", "Toy foot"),
        modality="CT(Computed Tomography)",  # from the key that this file alone has
        category="Anatomy Identification",
    )
    assert chest.image_id.endswith("Images/Chest CT Scan/test/toy.left_T1_N0_M0/000001 (2).png")
    assert eye.modality == "Fundus Photography" and eye.load_images()[0].mode == "RGB"  # a TIFF
    assert three.answer == "badly drawn." and len(three.options) == 3 and two.options == ("No", "Yes.")
    assert closed.id == "Toy Closed Set_0000" and closed.is_official and "not shipped" in closed.reason
    assert read(omnimedvqa, root / "OmniMedVQA", "all")[0].answer == "Toy chest"  # the folder inside is a root too


def omnimedvqa_row(**changes):
    row = {
        "dataset": "Toy", "question_id": "Toy_0", "question_type": "Lesion Grading", "question": "Is it?",
        "gt_answer": "Yes", "image_path": "Images/Toy/a.png", "option_A": "No", "option_B": "Yes", "modality_type": "MR",
    }  # fmt: skip
    return row | changes


def test_omnimedvqa_pictures_of_the_restricted_part_are_used_where_they_are(tmp_path):
    write_json(tmp_path / "OmniMedVQA/QA_information/Restricted-access/Toy.json", [omnimedvqa_row()])
    (tmp_path / "OmniMedVQA/QA_information/Restricted-access/._Toy.json").write_bytes(b"\0")  # of a Mac's archiver
    assert omnimedvqa.LAYOUT.splits(tmp_path) == ["all", "restricted"]
    assert read_one(omnimedvqa, tmp_path, "all").is_official
    save_picture(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "OmniMedVQA.zip", "w") as file:
        file.write(tmp_path / "a.png", "OmniMedVQA/Images/Toy/a.png")
    assert read_one(omnimedvqa, tmp_path, "all").load_images()[0].size == (4, 3)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"image_path": "Images/Toy/b.png"}, "no picture"),
        ({"image_path": None}, "no picture"),
        ({"gt_answer": "Maybe"}, "the answer is none of the options"),
        ({"gt_answer": None}, "no answer"),
        ({"option_A": None}, "an option without text"),
    ],
)
def test_omnimedvqa_refuses_a_row_of_the_open_part(tmp_path, changes, reason):
    save_picture(tmp_path / "Images/Toy/a.png")
    write_json(tmp_path / "QA_information/Open-access/Toy.json", [omnimedvqa_row(**changes)])
    row = read_one(omnimedvqa, tmp_path, "open_access")
    assert row.id == "Toy_0" and row.reason.startswith(reason) and not row.is_official


# --- Med-R1

MED_R1 = {"image": "Images/Toy/a.png", "problem": "Is it? A)No, B)Yes", "solution": "B"}


def test_med_r1_takes_the_options_apart_and_the_modality_from_the_file(formats):
    root = formats / "med-r1-splits"
    assert shape_of(med_r1, root) == {"train": (2, 1), "test": (3, 0)}
    line, regular, lost = read(med_r1, root, "train")
    assert line == Example(
        id="OCT (Optical Coherence Tomography_train-0",
        question="What is seen? A)A disc, B)A line, thin, C)A gap, D)Nothing",
        answer="A line, thin",
        answer_type="closed",
        images=line.images,
        options=("A disc", "A line, thin", "A gap", "Nothing"),
        modality="OCT (Optical Coherence Tomography",
    )
    assert lost.id == "unknown_train-0" and lost.reason.startswith("no picture")
    again, stained, grade = read(med_r1, root, "test")
    assert (again.question, again.image_id) == (regular.question, regular.image_id) and again.id != regular.id
    assert stained.options == ("Toy rays", "Toy & easy (T&E) stained drawing", "Toy sound", "Toy field")
    assert stained.answer == "Toy field" and grade.modality == "X-Ray" and grade.options[2] == grade.answer == "bad"


@pytest.mark.parametrize(
    "problem, options",
    [
        ("Is it? A)No, B)Yes", ["No", "Yes"]),
        ("Is it? A) No B) Yes", ["No", "Yes"]),
        ("A)No, B)Yes", ["No", "Yes"]),
        ("Is (vitamin A) low? A)No, B)Yes", ["No", "Yes"]),
        ("Which view (A, B) is it? A)The one, B)The other", ["The one", "The other"]),
        ("What? A)Stain (H&E), B)a (or C) b, C)1, 2 and 3, D)x", ["Stain (H&E)", "a (or C) b", "1, 2 and 3", "x"]),
        ("What? A)a, B)b, C)c, E)e", ["a", "b", "c, E)e"]),  # letters come in their order
    ],
)  # fmt: skip
def test_options_inside_a_problem_are_split_at_their_letters(problem, options):
    assert med_r1.split_options(problem) == options


@pytest.mark.parametrize("solution", ["B", "<answer>b</answer>", "<think> A or B </think> <answer> B </answer>"])
def test_the_letter_of_a_solution_is_what_its_answer_tag_holds(tmp_path, solution):
    save_picture(tmp_path / "Images/Toy/a.png")
    write_json(tmp_path / "Splits/modality/train/unknown_train.json", [MED_R1 | {"solution": solution}])
    example = read_one(med_r1, tmp_path, "train")
    assert example.answer == "Yes" and example.modality is None


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"problem": "What is it?"}, "no options in the problem"),
        ({"problem": "What is it? A)this alone"}, "no options in the problem"),
        ({"solution": "<answer> C </answer>"}, "the letter names no option"),
        ({"solution": "<answer> A, B </answer>"}, "no answer"),
        ({"solution": None}, "no answer"),
        ({"image": ["a.png"]}, "no picture"),
    ],
)
def test_med_r1_refuses_a_row(tmp_path, changes, reason):
    save_picture(tmp_path / "OmniMedVQA/Images/Toy/a.png")  # OmniMedVQA unpacked beside the splits
    write_json(tmp_path / "Splits/modality/test/MR (Mag-netic Resonance Imaging)_test.json", [MED_R1, MED_R1 | changes])
    example, refused = read(med_r1, tmp_path, "test")
    assert (example.answer, example.modality) == ("Yes", "MR (Mag-netic Resonance Imaging)")
    assert refused.reason.startswith(reason) and med_r1.LAYOUT.splits(tmp_path) == ["test"]


# --- MedVLM-R1 and the Huatuo evaluation data

BUNDLED = {"image": ["images/a.png"], "question": "Is it?", "options": ["No", "Yes"], "answer": "Yes", "subset": "CT"}


@pytest.mark.parametrize(
    "reader, folder, start",
    [(medvlm_r1, "medvlm-r1", "Huatuo/images/"), (medical_multimodal_eval, "medical-multimodal-eval", "images/")],
)
def test_the_bundle_and_its_900_questions_are_read_alike(formats, reader, folder, start):
    root = formats / folder
    assert shape_of(reader, root) == {"test": (6, 0)}
    rows = read(reader, root, "test")
    assert rows[1] == Example(
        id="test-1",
        question="Is anything odd in this toy picture?\nA. No\nB. Yes.",
        answer="No",
        answer_type="closed",
        images=rows[1].images,
        options=("No", "Yes."),
        modality="MR (Mag-netic Resonance Imaging)",
        category="OmniMedVQA",
    )
    assert [row.modality for row in rows[::2]] == [
        "MR (Mag-netic Resonance Imaging)",
        "CT(Computed Tomography)",
        "X-Ray",
    ]
    assert all(row.image_id.startswith(start) and row.load_images() for row in rows)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"solution": "A"}, "letter and text of the answer disagree"),
        ({"options": []}, ("Is it?", "Yes", "closed", None)),
        ({"options": None, "answer": "a disc", "subset": None}, ("Is it?", "a disc", "open", None)),
        ({"question": "Is it? A) No B) Yes"}, ("Is it? A) No B) Yes", "Yes", "closed", ("No", "Yes"))),
        ({"image": []}, "no picture"),
        ({"image": ["images/a.png", "images/b.png"]}, "no picture"),
        ({"image": "images/a.png"}, ("Is it?\nA. No\nB. Yes", "Yes", "closed", ("No", "Yes"))),
    ],
)
def test_the_bundle_in_other_forms(tmp_path, changes, expected):
    save_picture(tmp_path / "images/a.png")
    write_json(tmp_path / "medical_multimodel_evaluation_data.json", [BUNDLED | changes])
    found = read_one(medical_multimodal_eval, tmp_path, "test")
    if isinstance(expected, str):
        assert found.id == "test-0" and found.reason.startswith(expected)
    else:
        assert (found.question, found.answer, found.answer_type, found.options) == expected
        assert found.modality == (BUNDLED | changes)["subset"] and found.image_id == "images/a.png"


@pytest.mark.parametrize(
    "reader, annotation, row",
    [
        (medxpertqa, "MM/test.jsonl", medxpertqa_input_row(images=["a.png"], body_system="x", question_type="x")),
        (omnimedvqa, "QA_information/Open-access/Toy.json", omnimedvqa_row()),
        (med_r1, "Splits/modality/test/x_test.json", MED_R1),
        (medical_multimodal_eval, "medical_multimodel_evaluation_data.json", BUNDLED),
        (medvlm_r1, "MRI_CT_XRAY_300each_dataset.json", BUNDLED | {"solution": "B"}),
    ],
)  # fmt: skip
def test_an_odd_value_in_any_field_refuses_its_row_alone(tmp_path, reader, annotation, row):
    """With the types of every call checked: nothing odd goes further than the row it stands in."""
    save_picture(tmp_path / "Images/Toy/a.png", tmp_path / "images/a.png")
    rows = odd_rows(row)
    (write_jsonl if annotation.endswith("l") else write_json)(tmp_path / annotation, rows)
    found = read(reader, tmp_path, "test" if "test" in reader.LAYOUT.splits(tmp_path) else "all")
    assert len(found) == len(rows) and isinstance(found[0], Example)
    assert len({type(one) for one in found}) == 2 and all(one.reason for one in found if isinstance(one, RefusedRow))


@pytest.mark.parametrize("reader", [medical_multimodal_eval, medvlm_r1])
def test_a_damaged_archive_or_annotation_is_named(tmp_path, reader):
    (annotation,) = (tmp_path / name for name in reader.LAYOUT.files if name.endswith(".json"))
    annotation.write_text('[{"image": ["a"], "question"')
    with pytest.raises(ConfigError, match=f"{annotation.name}: expected a JSON list"):
        read(reader, tmp_path, "test")
    (tmp_path / "images.zip").write_bytes(b"PK\3\4")
    with pytest.raises(ConfigError, match="images.zip: cannot be read as a zip"):
        read(reader, tmp_path, "test")
