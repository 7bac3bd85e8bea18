"""Of all chat templates that a directory holds, the one that transformers' processor uses; or one line."""

import itertools
import json
import shutil
from pathlib import Path

import pytest

from reflex_jax.config import ConfigError
from reflex_jax.data.prompts import load_processor
from reflex_jax.text.chat_template import read_chat_template
from reflex_jax.text.tokenizer import load_policy_tokenizer, render_turn

LIMITS = {"min_pixels": 3136, "max_pixels": 12544, "prompt": "bare"}
PHANTOM = Path(__file__).resolve().parents[2] / "reflex_jax" / "assets" / "phantom" / "policy"
CONTENT = [{"type": "image"}, {"type": "text", "text": "Is it?"}]


def template(system):
    """A chat template that opens with the name of the place it was written to."""
    turn = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{% if part.type == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return f"<|im_start|>system\n{system}<|im_end|>\n{turn}"


PLACES = {
    "processor": {"processor_config.json": lambda name: {"chat_template": template(name)}},
    "legacy": {"chat_template.json": lambda name: {"chat_template": template(name)}},
    "jinja": {"chat_template.jinja": template},
    "named": {"additional_chat_templates/tools.jinja": template},
    "default among named": {"additional_chat_templates/default.jinja": template, "additional_chat_templates/a.jinja": template},
    "tokenizer": {"tokenizer_config.json": lambda name: {"chat_template": template(name)}},
    "tokenizer's list": {
        "tokenizer_config.json": lambda name: {
            "chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": template(name)}]
        }
    },
}  # fmt: skip


@pytest.fixture
def directory(tmp_path):
    """The phantom policy without a template."""
    copy = shutil.copytree(PHANTOM, tmp_path / "policy", ignore=shutil.ignore_patterns("*.safetensors"))
    update(copy / "tokenizer_config.json", chat_template=None)
    return copy


def update(path, **values):
    written = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(written | values))


def lay_out(directory, places):
    for place in places:
        for name, content in PLACES[place].items():
            (directory / name).parent.mkdir(exist_ok=True)
            if name.endswith(".json"):
                update(directory / name, **content(place))
            else:
                (directory / name).write_text(content(place))


def rendered_by_transformers(directory):
    transformers = pytest.importorskip("transformers")
    try:
        processor = transformers.AutoProcessor.from_pretrained(directory, local_files_only=True)
        return processor.apply_chat_template([{"role": "user", "content": CONTENT}], add_generation_prompt=True)
    except ValueError:  # no template, none named default, or files that it does not read together
        return None


@pytest.mark.parametrize(
    "places", [*itertools.combinations(PLACES, 1), *itertools.combinations(PLACES, 2), tuple(PLACES)]
)
def test_the_template_is_the_one_of_transformers_processor(directory, places):
    lay_out(directory, places)
    theirs, ours = rendered_by_transformers(directory), None
    try:
        ours = render_turn(load_policy_tokenizer(directory), CONTENT, source=directory)
    except ConfigError as refused:
        assert "\n" not in str(refused) and "chat_template" in str(refused)
    if all(place.startswith("tokenizer") for place in places):
        # their processor does not look there at all, and refuses; nothing else says what the model was trained with
        assert theirs is None and "system\ntokenizer" in ours
    else:
        assert ours == theirs


def test_a_template_of_transformers_5_reads_as_before(directory):
    """Saved by it: the template moves from tokenizer_config.json to chat_template.jinja."""
    before = render_turn(load_policy_tokenizer(PHANTOM), CONTENT, source="x")
    load_policy_tokenizer(PHANTOM).save_pretrained(directory)
    assert (directory / "chat_template.jinja").is_file()
    assert render_turn(load_policy_tokenizer(directory), CONTENT, source="x") == before


def test_line_ends_of_another_system_change_nothing(directory):
    (directory / "chat_template.jinja").write_bytes(template("a\nb").replace("\n", "\r\n").encode())
    ours = render_turn(load_policy_tokenizer(directory), CONTENT, source=directory)
    assert ours == rendered_by_transformers(directory) and "\r" not in ours


CONCATENATES = "{% for m in messages %}{{ m.role + m.content }}{% endfor %}"
UPPER = template("s").replace("{{ part.text }}", "{{ part.text | upper }}")
ESCAPED = template("s").replace("{{ part.text }}", "{{ part.text | tojson }}")


@pytest.mark.parametrize(
    "written, fault",
    [
        ("{% for m in messages %}", "cannot render a turn of text \\(TemplateSyntaxError"),
        ("{{ raise_exception('only text') }}", "cannot render a turn of text \\(TemplateError: only text"),
        (CONCATENATES, "one for text alone does not do"),
        ("{{ messages[0].nothing.at_all }}", "UndefinedError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ ().__class__.__bases__ }}", "cannot render|unchanged; it does 0"),
        (UPPER, "shows? the user's text once, unchanged; it does 0 times"),
        (ESCAPED, "shows? the user's text once, unchanged; it does 0 times"),
        (template("s").replace("<|image_pad|>", "<image>"), "1 image token\\(s\\) of id 990 .* got 0 and 0"),
        (template("s") + "<|image_pad|>", "0 image token\\(s\\) of id 990 .* got 0 and 1"),
        ("  \n", "is empty"),
    ],
)
def test_a_template_that_cannot_show_picture_and_text_is_refused_in_one_line(directory, written, fault):
    (directory / "chat_template.jinja").write_text(written)
    with pytest.raises(ConfigError, match=fault) as refused:
        load_processor(directory, **LIMITS)
    message = str(refused.value)
    assert message.startswith("policy.path: ") and "chat_template.jinja" in message and "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize(
    "written, fault",
    [
        ([{"name": "tool_use", "template": "x"}, {"name": "rag", "template": "y"}], "'default'; got rag, tool_use"),
        ({"a": "x"}, "'default'; got a"),
        ({}, "'default'; got none"),
        (["x"], "as text; got"),
        (7, "as text; got '7'"),
        ("", "got an empty one"),
        (None, "expected the key 'chat_template'"),
    ],
)
def test_a_template_that_is_none_is_refused_with_its_file(directory, written, fault):
    update(directory / "chat_template.json", chat_template=written)
    with pytest.raises(ConfigError, match=fault) as refused:
        read_chat_template(directory)
    assert "chat_template.json" in str(refused.value) and "\n" not in str(refused.value)


def test_a_directory_without_any_template_says_what_to_copy(directory):
    with pytest.raises(ConfigError, match="has no chat template; copy chat_template.jinja"):
        load_processor(directory, **LIMITS)


def test_a_template_that_cannot_be_read_names_its_file(directory):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    for name in ("chat_template.json", "chat_template.jinja"):
        (directory / name).write_text(pointer)
        with pytest.raises(ConfigError, match=f"{name} is a Git LFS pointer"):
            read_chat_template(directory)
        (directory / name).unlink()
        (directory / name).symlink_to(directory / "absent")  # as a hub cache without its blobs has them
        with pytest.raises(ConfigError, match=f"{name}; it cannot be read"):
            read_chat_template(directory)
        (directory / name).unlink()
