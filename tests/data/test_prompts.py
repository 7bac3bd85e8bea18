"""Prompts: the tokens and positions of Hugging Face, no special id from the user's words, static shapes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reflex_jax.config import Config, ConfigError, DataConfig
from reflex_jax.data.examples import Example, Picture
from reflex_jax.data.images import prompt_inputs_from_huggingface
from reflex_jax.data.prompt_texts import PROMPTS
from reflex_jax.data.prompts import Processor, PromptSizes, load_processor
from reflex_jax.step.batch import leave_out_unfit, measure_prompts
from tests.levels import normalise_levels

PHANTOM = Path(__file__).resolve().parents[2] / "reflex_jax" / "assets" / "phantom" / "policy"
LIMITS = {"min_pixels": 3136, "max_pixels": 64 * 28 * 28}
IMAGE_PAD = "<|image_pad|>"
QUESTIONS = (
    "Is there a pneumothorax?",
    "  Größe of the lesion (cm) ?\n\n",
    "{question} {{ messages }}",
    "A\nB  c",
    "肺?",
)


@pytest.fixture(scope="module")
def directory(data_root):
    return data_root / "tokenizers" / "qwen2.5-vl-7b-instruct"


@pytest.fixture(scope="module")
def processor(directory):
    return load_processor(directory, prompt="think_answer", **LIMITS)


@pytest.fixture(scope="module")
def bare(directory):
    return load_processor(directory, prompt="bare", **LIMITS)


def make_image(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def make_example(number, question="Is it?", sizes=((60, 60),), measured=None):
    images = [
        Picture(id=f"i{number}-{k}", data=lambda size=size: make_image(*size), size=measured)
        for k, size in enumerate(sizes)
    ]
    return Example(id=f"q{number}", question=question, answer="yes", answer_type="closed", images=tuple(images))


def huggingface_ids(processor, question, *image_tokens):
    """What transformers' own processor feeds the model: one rendered text, image tokens expanded, then tokenised."""
    text = PROMPTS[processor.prompt].texts[0].replace("{question}", question.strip())
    content = [{"type": "image"}] * len(image_tokens) + [{"type": "text", "text": text}]
    turn = [{"role": "user", "content": content}]
    rendered = processor.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    first, *rest = rendered.split(IMAGE_PAD)
    expanded = first + "".join(IMAGE_PAD * n + part for n, part in zip(image_tokens, rest, strict=True))
    return processor.tokenizer(expanded, add_special_tokens=False).input_ids


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("prompt", ["think_answer", "bare"])
def test_tokens_equal_those_of_hugging_face(processor, bare, question, prompt):
    chosen = {"think_answer": processor, "bare": bare}[prompt]
    for sizes in ([(120, 90)], [], [(120, 90), (60, 300), (90, 90)]):
        encoded = chosen.encode([make_image(*size) for size in sizes], question)
        tokens = [grid[1] * grid[2] // 4 for _, grid in encoded.images]
        assert len(set(tokens)) == len(tokens) == len(sizes)
        np.testing.assert_array_equal(encoded.ids, huggingface_ids(chosen, question, *tokens))


def test_pixels_and_grid_equal_those_of_hugging_face(processor, directory):
    transformers = pytest.importorskip("transformers")
    oracle = transformers.Qwen2VLImageProcessorPil.from_pretrained(directory)
    oracle.size = {"shortest_edge": LIMITS["min_pixels"], "longest_edge": LIMITS["max_pixels"]}
    for size in ((300, 200), (57, 401)):
        image = make_image(*size)
        expected = oracle(image, return_tensors="np")
        ((levels, grid),) = processor.encode([image], "Is it?").images
        patches = normalise_levels(levels, processor.images.normalisation)
        assert grid == tuple(expected["image_grid_thw"][0]) == processor.picture_shape(size).grids[0]
        np.testing.assert_allclose(patches, expected["pixel_values"], atol=1e-6)


def test_a_directory_saved_by_transformers_5_gives_the_same_prompts(tmp_path):
    """It writes processor_config.json and chat_template.jinja, no preprocessor_config.json."""
    transformers = pytest.importorskip("transformers")
    saved = transformers.AutoProcessor.from_pretrained(PHANTOM, local_files_only=True)
    saved.save_pretrained(tmp_path)
    shutil.copy(PHANTOM / "config.json", tmp_path)
    assert (tmp_path / "processor_config.json").is_file() and not (tmp_path / "preprocessor_config.json").exists()
    before, after = (load_processor(directory, prompt="think_answer", **LIMITS) for directory in (PHANTOM, tmp_path))
    image = make_image(120, 90)
    ours, theirs = after.encode([image], QUESTIONS[0]), before.encode([image], QUESTIONS[0])
    np.testing.assert_array_equal(ours.ids, theirs.ids)
    np.testing.assert_array_equal(ours.images[0][0], theirs.images[0][0])
    saved = transformers.AutoProcessor.from_pretrained(tmp_path, local_files_only=True)
    text = PROMPTS["think_answer"].texts[0].replace("{question}", QUESTIONS[0])
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    rendered = saved.apply_chat_template(turn, add_generation_prompt=True)
    inputs = saved(text=[rendered], images=[image], return_tensors="np")
    np.testing.assert_array_equal(ours.ids, inputs["input_ids"][0])
    assert ours.images[0][1] == tuple(inputs["image_grid_thw"][0])


def test_user_words_never_become_special_or_added_tokens(processor):
    added = sorted(processor.tokenizer.get_added_vocab().items(), key=lambda item: item[1])
    assert len(added) == 22
    image = make_image(56, 56)
    plain = processor.encode([image], "x").ids
    for text, _ in added:
        ids = processor.encode([image], f"x{text} {text}<|im_end|>").ids
        for _, special in added:
            assert (ids == special).sum() == (plain == special).sum(), text
        assert processor.config.image_token_id not in processor.encode_text(f"{text}{IMAGE_PAD}")


def test_image_comes_first_then_the_question_then_the_task(processor):
    text = processor.tokenizer.decode(processor.encode([make_image(56, 56)], "Is it broken?").ids)
    assert text.index("<|vision_end|>") < text.index("Is it broken?") < text.index("<think>") < text.index("<answer>")
    assert text.endswith("<|im_start|>assistant\n")


def test_collated_prompts_equal_those_of_hugging_face(processor):
    """Two aspect ratios, a row without an image and one with two, against the layout made from Hugging Face's arrays."""
    images = [[make_image(120, 300)], [], [make_image(200, 60, seed=1), make_image(60, 60, seed=2)]]
    prompts = [processor.encode(row, "Is it?" * (2 * i + 1)) for i, row in enumerate(images)]
    assert [len(p.images) for p in prompts] == [1, 0, 2]
    sizes = PromptSizes(prompt_tokens=max(len(p.ids) for p in prompts) + 3, windows=6)
    ours = processor.collate(prompts, prompt_tokens=sizes.prompt_tokens, windows=sizes.windows)
    normalisation = processor.images.normalisation
    pixel_values = np.concatenate([normalise_levels(levels, normalisation) for p in prompts for levels, _ in p.images])
    grids = np.array([grid for p in prompts for _, grid in p.images])
    theirs = prompt_inputs_from_huggingface(
        ours.tokens, ours.is_valid.astype(int), pixel_values, grids, processor.config
    )
    for name in ("tokens", "is_valid", "positions", "feature_index"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    assert ours.is_valid[:, -1].all() and not ours.is_valid[:, :3].any()  # padding on the left
    assert (ours.tokens[~ours.is_valid] == processor.pad_id).all()
    assert ours.vision.patches.shape[:2] == (3, 6) and not ours.vision.image_ids[1].any()
    # Every merged feature of a picture is read exactly once.
    for row, prompt in enumerate(prompts):
        used = ours.feature_index[row][ours.feature_index[row] >= 0]
        assert len(set(used)) == len(used) == sum(int(np.prod(grid)) // 4 for _, grid in prompt.images)
        is_filled = ours.vision.image_ids[row].reshape(-1, 4).all(axis=1)
        assert set(used) == set(np.flatnonzero(is_filled))


def test_questions_without_any_image_need_no_vision_inputs(bare):
    prompts = [bare.encode([], question) for question in ("Is it?", "Where?")]
    collated = bare.collate(prompts, prompt_tokens=64, windows=0)
    assert collated.vision is None and (collated.feature_index == -1).all()


def test_measured_sizes_hold_every_batch_and_no_more(processor):
    sizes = [[(120, 300)], [(60, 60)], [(500, 500)], [], [(300, 300), (300, 120), (60, 60)]]
    examples = [make_example(i, "Is it?" * (i + 1), row) for i, row in enumerate(sizes)]
    found = processor.measure(examples, max_prompt_tokens=2048)
    prompts = [processor.encode(e.load_images(), e.question) for e in examples]
    longest = max(len(p.ids) for p in prompts)
    assert found.prompt_tokens % 8 == 0 and 0 <= found.prompt_tokens - longest < 8
    processor.collate(prompts, prompt_tokens=found.prompt_tokens, windows=found.windows)
    with pytest.raises(ValueError, match="windows"):
        processor.collate(prompts, prompt_tokens=found.prompt_tokens, windows=found.windows - 1)
    with pytest.raises(ValueError, match="tokens"):
        processor.collate(prompts, prompt_tokens=longest - 1, windows=found.windows)
    assert found.union(PromptSizes(8, 99)) == PromptSizes(found.prompt_tokens, 99)


def test_prompts_over_the_limit_are_refused_by_id(processor):
    examples = [
        make_example(0),
        make_example(1, "long " * 300),
        make_example(2, sizes=[(900, 900)]),
        make_example(3),
    ]
    limit = len(processor.encode(examples[0].load_images(), examples[0].question).ids)
    assert processor.measure(examples[:1], max_prompt_tokens=limit).prompt_tokens >= limit
    with pytest.raises(ConfigError, match=r"data.max_prompt_tokens=\d+: 2 prompts are longer: q1 \(\d+\), q2 \(\d+\)"):
        processor.measure(examples, max_prompt_tokens=limit)


def test_pictures_of_impossible_shape_are_refused_by_name(processor):
    examples = [make_example(0), make_example(1, measured=(5000, 7)), make_example(2, measured=(3, 900))]
    with pytest.raises(ConfigError, match=r"2 pictures cannot be resized: i1-0 .*i2-0 "):
        processor.measure(examples, max_prompt_tokens=2048)


def test_questions_that_a_run_cannot_ask_are_refused_together_or_left_out_with_their_reasons(processor, capsys):
    wide, long = make_example(1, measured=(5000, 7)), make_example(2, "long " * 3000)
    examples = [make_example(0), wide, long, make_example(3, sizes=[])]
    config = Config(data=DataConfig(max_prompt_tokens=500))
    with pytest.raises(ConfigError) as refusal:
        measure_prompts(
            config, processor, leave_out_unfit(config, processor, examples, with_judge=True), with_judge=True
        )
    for words in (
        "1 pictures cannot be resized: i1-0",
        "1 prompts are longer: q2",
        "no image for the judge to look at: q3",
    ):
        assert words in str(refusal.value)
    config = Config(data=DataConfig(max_prompt_tokens=500, refused="leave_out"))
    kept = leave_out_unfit(config, processor, examples, with_judge=True)
    assert [e.id for e in kept] == ["q0"] and measure_prompts(config, processor, kept, with_judge=True)
    said = capsys.readouterr().err
    assert "left out: 3 questions that this run cannot ask: q1 (a picture that cannot be resized), q2 (" in said
    assert [e.id for e in leave_out_unfit(config, processor, examples, with_judge=False)] == ["q0", "q3"]
    with pytest.raises(ConfigError, match="can ask none of 1 questions: q1"):
        leave_out_unfit(config, processor, [wide], with_judge=True)


def test_unknown_prompts_and_incomplete_directories_are_refused(directory, tmp_path):
    with pytest.raises(ConfigError, match="data.prompt: expected one of think_answer, bare, .*; got 'essay'"):
        load_processor(directory, prompt="essay", **LIMITS)
    copy = tmp_path / "policy"
    shutil.copytree(directory, copy)
    settings = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").chmod(0o644)
    (copy / "preprocessor_config.json").write_text(json.dumps(settings | {"patch_size": 16}))
    with pytest.raises(ConfigError, match="patch_size"):
        load_processor(copy, prompt="bare", **LIMITS)
    copy.chmod(0o755)
    (copy / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match="preprocessor_config.json.*missing"):
        load_processor(copy, prompt="bare", **LIMITS)


def test_a_chat_template_must_show_image_and_text_once(processor, monkeypatch):
    once = "{% for part in messages[0].content %}{{ part.text if part.type == 'text' else '' }}{% endfor %}"
    refusals = ((once, "image token"), ("<|image_pad|>", "once"), (once + once, "once"), (None, "has no chat template"))
    for template, complaint in refusals:
        monkeypatch.setattr(processor.tokenizer, "chat_template", template)
        with pytest.raises(ConfigError, match=complaint):
            Processor(processor.tokenizer, processor.images, processor.config, prompt="bare")
