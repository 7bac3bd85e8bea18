"""Own data as lines of JSON and as parquet: what docs/own_data.md says, and every wrong row by its id or its line."""

import base64
import io
import json
import re
import zipfile

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet as arrow_parquet

from reflex_jax.config import ConfigError
from reflex_jax.data.examples import Example, RefusedRow
from reflex_jax.data.own_rows import FIELDS
from reflex_jax.data.readers import jsonl, parquet
from reflex_jax.data.row_checks import refuse_unusable

EXAMPLE = re.compile(r"```json\n(.*?)```", re.DOTALL)


def read(reader, root, split="train"):
    return list(reader.LAYOUT.read(root, split))


def refusals(rows):
    return {row.id: (row.reason, row.detail) for row in rows if isinstance(row, RefusedRow)}


def png(grey=0):
    data = io.BytesIO()
    Image.new("L", (4, 3), grey).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def manual(repository):
    return (repository / "docs" / "own_data.md").read_text(encoding="utf-8")


def test_the_example_of_the_manual_is_read_as_it_says(manual, tmp_path, save_picture):
    (lines,) = EXAMPLE.findall(manual)
    (tmp_path / "train.jsonl").write_text(lines, encoding="utf-8")
    for name in "abcd":
        save_picture(tmp_path / "images" / f"{name}.png")
    rows = read(jsonl, tmp_path)
    assert len(rows) == 10 and not refusals(rows)
    assert [row.id for row in rows] == [
        *(f"train-{n}" for n in range(5)),
        "case-7/2",
        *(f"train-{n}" for n in (6, 7, 8, 9)),
    ]
    assert [row.answer_type for row in rows] == [
        "closed", "open", "open", "closed", "closed", "open", "closed", "closed", "open", "closed",
    ]  # fmt: skip
    assert rows[2].accepted == ("pulmonary nodule",) and rows[2].modality == "CT" and rows[1].organ == "Lung"
    assert (rows[3].question, rows[3].answer) == ("Which side is it on?\nA. Left\nB. Right", "Right")
    assert rows[4].question == "Which is larger? (A) the first (B) the second" and rows[4].answer == "the first"
    assert [picture.id for picture in rows[4].images] == ["images/a.png", "images/b.png"]
    assert (rows[5].answer, rows[5].category) == ("3", "counting")
    assert rows[7].load_images()[0].size == (2, 2) and rows[7].paraphrases == ("Does it look normal?",)
    assert rows[8].images == () and rows[8].reasoning == "C3 to C5 form it."
    assert (rows[9].language, rows[9].question) == ("es", "¿Hay una fractura?")
    assert all(row.load_images() or row is rows[8] for row in rows)


def test_the_manual_has_every_field(manual):
    named = {
        name
        for line in manual.splitlines()
        if line.startswith("|")
        for name in re.findall("`(.*?)`", line.split("|")[1])
    }
    assert named == set(FIELDS)


def test_every_wrong_row_is_refused_by_its_id_or_line_at_once(tmp_path, save_json, save_picture):
    save_picture(tmp_path / "a.png")
    good = {"question": "Is it?", "answer": "yes", "image": "a.png"}
    wrong = {
        ("an unknown field", "'anwser'. Did you mean 'answer'?"): {"anwser": "no"},
        ("no question", ""): {"question": None},
        ("no answer", ""): {"answer": []},
        ("answer", "expected text; got bool True (write yes or no)"): {"answer": True},
        ("no picture", "'b.png' is missing"): {"image": "b.png"},
        ("no picture", "expected a path or bytes; got int"): {"image": 7},
        ("no picture", "its bytes are not base64"): {"image": {"bytes": "?"}},
        ("no picture", "expected bytes or path inside it; got byte"): {"image": {"byte": "?"}},
        ("picture outside the data's folder", "expected a path below the root; got '/etc/hosts'"): {
            "image": "/etc/hosts"
        },
        ("both image and images", "give one of them"): {"images": ["a.png"]},
        ("fewer than two options", ""): {"options": ["yes"]},
        ("the answer is none of the options", "'yes'"): {"options": ["left", "right"]},
        ("more than 10 options", "11"): {"options": [*"bcdefghijk", "yes"]},
        ("an answer_type that is neither closed nor open", "'multiple'"): {"answer_type": "multiple"},
        ("a language that is none", "expected a code of ISO 639, such as en; got 'english'"): {"language": "English"},
        ("target", "expected text; got list ['a']"): {"target": ["a"]},
        ("id", "expected text; got list [1]"): {"id": [1]},
    }
    save_json(tmp_path / "train.jsonl", [good, *({**good, **changes} for changes in wrong.values())])
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('\n{"id": "late", "question": 1}\n{"cut": \n7\n')
    rows = read(jsonl, tmp_path)
    found = refusals(rows)
    assert [found[f"line {number}"] for number in range(2, 2 + len(wrong))] == list(wrong)
    assert found["late"] == ("no answer", "")
    last = len(wrong) + 4  # behind a blank line
    assert found[f"line {last}"][0] == found[f"line {last + 1}"][0] == "no JSON object"
    assert len(found) == len(wrong) + 3 == len(rows) - 1


def test_long_texts_stay_as_they_are(tmp_path, save_json):
    target = "<think>\n  a  b\n</think>\n<answer>yes</answer>\n"
    row = {
        "question": " Is  it?\nSay so. ",
        "answer": " y  es ",
        "target": target,
        "reasoning": "1.\n2.",
        "organ": float("nan"),
    }
    save_json(tmp_path / "train.jsonl", [row])
    (found,) = read(jsonl, tmp_path)
    assert (found.target, found.reasoning, found.organ) == (target, "1.\n2.", None)
    assert (found.question, found.answer) == ("Is it?\nSay so.", "y es")


def test_several_right_options_are_accepted(tmp_path, save_json):
    save_json(tmp_path / "dev.jsonl", [{"question": "Which?", "options": ["a:x", "y", "z"], "answer": ["C", "y", "z"]}])
    (found,) = read(jsonl, tmp_path, "dev")
    assert (found.answer, found.accepted, found.options) == ("z", ("y",), ("a:x", "y", "z"))
    save_json(tmp_path / "dev.jsonl", [{"question": "Which?", "options": ["B", "A"], "answer": "B"}])
    assert read(jsonl, tmp_path, "dev")[0].answer == "A"  # the letter of the option that is called B


@pytest.mark.parametrize("members", ["images/{}", "{}"])
def test_pictures_may_lie_in_an_archive_and_be_dicom(data_root, tmp_path, save_json, members):
    pytest.importorskip("pydicom")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr(members.format("a b .png"), png(7))
        archive.write(data_root / "dicom" / "CT_small.dcm", members.format("ct"))
    rows = [{"question": "Is it?", "answer": "yes", "images": ["images/a b .png", "images/ct"]}]
    save_json(tmp_path / "train.jsonl", rows)
    (found,) = read(jsonl, tmp_path)
    assert [image.size for image in found.load_images()] == [(4, 3), (128, 128)]


def test_splits_are_the_files_and_a_byte_order_mark_is_passed_over(tmp_path, save_json):
    for name in ("test", "night_shift", "validation", "train"):
        save_json(tmp_path / f"{name}.jsonl", [])
    assert jsonl.LAYOUT.splits(tmp_path) == ["train", "validation", "test", "night_shift"]
    (tmp_path / "train.jsonl").write_text('\ufeff{"question": "?", "answer": "x\u2028y"}\r\n', encoding="utf-8")
    assert [row.answer for row in read(jsonl, tmp_path)] == ["x y"]


@pytest.mark.parametrize(
    "content, expected",
    [
        (b'[\n{"question": "?"}]', "expected one JSON object a line; got a JSON list"),
        ('{"question": "?"}'.encode("utf-16"), "expected UTF-8 text; it is UTF-16"),
    ],
)
def test_files_that_are_no_lines_of_json_are_refused_by_name(tmp_path, content, expected):
    (tmp_path / "train.jsonl").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"train\.jsonl: {expected}"):
        read(jsonl, tmp_path)


def test_a_line_in_another_encoding_a_repeated_key_and_an_endless_number_refuse_their_rows_alone(tmp_path):
    lines = [
        '{"question": "Größe?", "answer": "a"}'.encode("latin-1"), b'{"question": "?", "question": "!", "answer": "a"}',
        b'{"question": "?", "answer": 1e999}', '{"question": "Größe?", "answer": "a"}'.encode(),
    ]  # fmt: skip
    (tmp_path / "train.jsonl").write_bytes(b"\n".join(lines))
    first, doubled, endless, good = refuse_unusable(read(jsonl, tmp_path))
    assert (first.id, first.reason) == ("train-0", "text that is no UTF-8, or half of a surrogate pair")
    assert "twice" in doubled.detail and "finite" in endless.detail and good.question == "Größe?"


# --- parquet


def write(path, rows, **types):
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    arrays = {name: pyarrow.array([row.get(name) for row in rows], types.get(name)) for name in names}
    arrow_parquet.write_table(pyarrow.table(arrays), path)


def test_both_forms_of_own_data_give_the_same_rows(manual, tmp_path, save_picture):
    (lines,) = EXAMPLE.findall(manual)
    (tmp_path / "train.jsonl").write_text(lines, encoding="utf-8")
    for name in "abcd":
        save_picture(tmp_path / "images" / f"{name}.png", ord(name))
    rows = [json.loads(line) for line in lines.splitlines()]
    for row in rows:
        pictures = [row.pop("image", None)] if row.get("image") else row.get("images") or []
        cells = [{"path": picture} if isinstance(picture, str) else picture for picture in pictures]
        row["images"] = [
            {"path": cell.get("path"), "bytes": base64.b64decode(cell["bytes"]) if "bytes" in cell else None}
            for cell in cells
        ]
        row.pop("image", None)
        answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
        row["answer"] = [str(answer) for answer in answers]
    write(tmp_path / "train-00000-of-00002.parquet", rows[:6])
    write(tmp_path / "train-00001-of-00002.parquet", rows[6:])
    expected = read(jsonl, tmp_path)
    assert parquet.LAYOUT.splits(tmp_path) == ["train"] and read(parquet, tmp_path) == expected
    (tmp_path / "data").mkdir()
    for path in tmp_path.glob("*.parquet"):
        path.rename(tmp_path / "data" / path.name)
    assert read(parquet, tmp_path) == expected  # pictures lie beside the folder that was named


def test_wrong_rows_of_parquet_are_refused_by_their_number_or_id(tmp_path):
    rows = [
        {"id": None, "question": "Is it?", "answer": "yes", "image": png()},
        {"id": None, "question": "Is it?", "answer": None, "image": png()},
        {"id": "b", "question": None, "answer": "yes", "image": png()},
        {"id": None, "question": "Is it?", "answer": "yes", "image": None},
    ]
    write(tmp_path / "test.parquet", rows, image=pyarrow.binary())
    found = read(parquet, tmp_path, "test")
    assert refusals(found) == {"row 1": ("no answer", ""), "b": ("no question", "")}
    assert found[0].images[0].data == png() and found[3] == Example(
        id="test-3", question="Is it?", answer="yes", answer_type="closed"
    )


def test_unknown_columns_of_parquet_are_refused_once(tmp_path):
    write(tmp_path / "train.parquet", [{"question": "Is it?", "answer": "yes", "reasonning": "a", "_mine": 1}])
    with pytest.raises(ConfigError, match=r"train\.parquet: .*got 'reasonning'. Did you mean 'reasoning'\?"):
        read(parquet, tmp_path)
    write(tmp_path / "train.parquet", [{"question": "Is it?", "_mine": 1}])
    with pytest.raises(ConfigError, match="missing: answer; got question, _mine"):
        read(parquet, tmp_path)
