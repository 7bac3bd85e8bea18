"""Pictures in tiles beside Hugging Face's image processor and prompt strings for SmolVLM: pixels, rows, columns and tokens."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reflex_jax.audit.policy_attention import read_again
from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.checkpoints.policy import load_policy, policy_logits, special_ids
from reflex_jax.config import ConfigError, DataConfig
from reflex_jax.data.examples import Example, Picture
from reflex_jax.data.image_settings import ImageSettings, read_image_settings
from reflex_jax.data.images import prompt_inputs_from_huggingface
from reflex_jax.data.pictures import cut_picture, picture_shape
from reflex_jax.data.prompts import load_processor
from reflex_jax.data.tiles import plan_tiles
from reflex_jax.models.published import POLICIES
from reflex_jax.models.qwen_vl import prompt_logits, read_qwen_config
from reflex_jax.step.shapes import largest_prompt, smallest_prompt
from reflex_jax.text.tokenizer import encode_user_text
from tests.parity.qwen_reference import relative_error
from tests.tiny_directories import change_json, write_tiny_policy

LIMITS = {"min_pixels": 3136, "max_pixels": 1048576}
TILE = 56  # of the tiny directory, whose longest edge is two tiles
SIZES = ((112, 112), (300, 200), (57, 401), (33, 40), (640, 90), (1, 9), (113, 56))  # width, height


def image_of(size, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_tiny_policy(tmp_path_factory.mktemp("smolvlm"), family="smolvlm")


@pytest.fixture(scope="module")
def processor(directory):
    return load_processor(directory, prompt="bare", **LIMITS)


def oracle_of(**settings):
    """transformers' image processor that needs no torch."""
    module = pytest.importorskip("transformers.models.smolvlm.image_processing_pil_smolvlm")
    edges = {"size": {"longest_edge": 2 * TILE}, "max_image_size": {"longest_edge": TILE}}
    return module.SmolVLMImageProcessorPil(**{**edges, "return_row_col_info": True, **settings})


def tiles_of_oracle(oracle, image):
    found = oracle([[image]], return_tensors="np")
    assert found["pixel_attention_mask"].all()  # every tile is filled
    return found["pixel_values"][0], found["rows"][0][0], found["cols"][0][0]


@pytest.mark.parametrize("edge", [TILE, 100, 2 * TILE, 3 * TILE])
@pytest.mark.parametrize("is_split", [True, False])
def test_tiles_are_those_of_transformers_to_the_bit(processor, edge, is_split):
    vision = processor.config.vision
    settings = ImageSettings((0.5,) * 3, (0.5,) * 3, **LIMITS, longest_edge=edge, is_split=is_split)
    raw = oracle_of(size={"longest_edge": edge}, do_image_splitting=is_split, do_rescale=False, do_normalize=False)
    for size in SIZES:
        expected, rows, columns = tiles_of_oracle(raw, image_of(size))
        shape, pieces = cut_picture(image_of(size), settings, vision)
        assert (shape.rows, shape.columns) == (rows, columns) and shape == picture_shape(size, settings, vision)
        assert len(pieces) == len(expected) == len(shape.grids)
        as_huggingface = prompt_inputs_from_huggingface(
            np.full((1, 4 * len(pieces)), processor.config.image_token_id), None, expected[None].astype(np.float32), None,
            processor.config,
        )  # fmt: skip
        assert as_huggingface.vision.patches.shape == (1, len(pieces), 16, 588)  # a tile is a window
        for number, (levels, grid) in enumerate(pieces):
            assert grid == (1, 4, 4)
            np.testing.assert_array_equal(levels, as_huggingface.vision.patches[0, number])


@given(
    width=st.integers(1, 3000), height=st.integers(1, 3000), tile=st.sampled_from([384, 512]), most=st.integers(1, 5)
)
def test_the_longest_edge_is_lowered_by_whole_tiles_until_the_tiles_are_few_enough(width, height, tile, most):
    """The published edges, four tiles; and each plan is that of transformers with the edge it chose."""
    module = pytest.importorskip("transformers.models.smolvlm.image_processing_pil_smolvlm")
    limit = most * tile**2
    plan = plan_tiles((width, height), tile=tile, longest_edge=4 * tile, max_pixels=limit, is_split=True)
    assert math.prod(plan.stretched) <= limit
    edge = max(plan.resized)
    blank = np.broadcast_to(np.zeros(1, np.uint8), (3, height, width))
    assert plan.resized == module.get_resize_output_image_size(blank, edge)[::-1]
    assert plan.tiles == (plan.rows * plan.columns or 0) + 1
    if edge < 4 * tile:  # one tile more would be too many
        wider = plan_tiles((width, height), tile=tile, longest_edge=edge + tile, max_pixels=10**9, is_split=True)
        assert math.prod(wider.stretched) > limit
    own = DataConfig(max_pixels=limit)
    vision = read_vision(tile)
    assert plan.tiles <= largest_prompt(own, vision).windows
    assert smallest_prompt(own, vision).windows == 1


def read_vision(tile):
    name = {384: "SmolVLM2-2.2B-Instruct", 512: "SmolVLM2-500M-Video-Instruct"}[tile]
    return POLICIES[name].vision


@pytest.mark.parametrize("sizes", [[], [(300, 200)], [(57, 401), (50, 50), (640, 90)]], ids=len)
def test_prompts_are_those_of_transformers(processor, sizes):
    """The rendered template with each <image> replaced as its processor does, tokenised in one piece."""
    module = pytest.importorskip("transformers.models.smolvlm.processing_smolvlm")
    text = "What is 12 + 1?"
    encoded = processor.encode([image_of(size) for size in sizes], text)
    content = [{"type": "image"}] * len(sizes) + [{"type": "text", "text": text}]
    rendered = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    first, *rest = rendered.split("<image>")
    for size, part in zip(sizes, rest, strict=True):
        _, rows, columns = tiles_of_oracle(oracle_of(), image_of(size))
        marks = {"image_token": "<image>", "fake_token_around_image": "<fake_token_around_image>"}
        first += module.get_image_prompt_string(rows, columns, 4, global_image_token="<global-img>", **marks) + part
    assert first.startswith("<|im_start|>User:") and first.endswith("<end_of_utterance>\nAssistant:")
    np.testing.assert_array_equal(encoded.ids, processor.tokenizer(first).input_ids)
    mark = processor.config.image_token_id
    assert (encoded.ids == mark).sum() == 4 * len(encoded.images)


def test_a_prompt_is_measured_without_its_pictures(processor):
    pictures = tuple(Picture(id=str(size), data=b"unread", size=size) for size in SIZES[:3])
    example = Example(id="1", question="Is it?", answer="yes", answer_type="closed", images=pictures)
    encoded = processor.encode([image_of(size) for size in SIZES[:3]], "Is it?")
    assert processor.size_of(example) == (len(encoded.ids), len(encoded.images))


def test_words_of_a_user_are_no_marks_and_meet_the_template_as_words_do(processor):
    text = "<image><row_1_col_1> What<end_of_utterance>?"
    ids = processor.encode([], text).ids
    without = processor.encode([], "x").ids
    marks = set(special_ids(processor.config, processor.tokenizer))
    assert [i for i in ids if i in marks] == [i for i in without if i in marks]
    # ": " and the question's first word are cut together: "left" is no token of its own behind a blank
    apart = [encode_user_text(processor.tokenizer, part) for part in ("User: ", "left?")]
    joined = encode_user_text(processor.tokenizer, "User: left?")
    assert len(joined) < sum(map(len, apart))
    assert list(processor.encode([], "left?").ids[1 : 1 + len(joined)]) == joined


def test_an_answer_to_imitate_begins_as_the_template_writes_one(processor):
    """Behind "Assistant:" comes a blank, which is cut together with the first word."""
    assert processor.answer_lead == " "
    turns = [
        {"role": r, "content": [{"type": "text", "text": t}]} for r, t in (("user", "Is it?"), ("assistant", "left"))
    ]
    whole = processor.tokenizer.apply_chat_template(turns, tokenize=False)
    answer = encode_user_text(processor.tokenizer, processor.answer_lead + "left")
    ids = [*processor.encode([], "Is it?").ids, *answer]
    assert processor.tokenizer(whole).input_ids[: len(ids)] == ids
    assert load_processor(resolve_checkpoint("phantom", "policy"), prompt="bare", **LIMITS).answer_lead == ""


def test_no_mark_of_a_picture_is_ever_sampled(processor):
    tokenizer = processor.tokenizer
    marks = (
        "<image>",
        "<fake_token_around_image>",
        "<global-img>",
        "<row_1_col_1>",
        "<row_2_col_2>",
        "<end_of_utterance>",
    )
    banned = special_ids(processor.config, tokenizer)
    assert {tokenizer.convert_tokens_to_ids(mark) for mark in marks} <= set(banned)
    assert tokenizer.convert_tokens_to_ids("<tool_call>") not in banned


def test_collated_tiles_are_the_layout_of_transformers_arrays(processor):
    images = [[image_of((300, 120))], [], [image_of((60, 200), seed=1), image_of((60, 60), seed=2)]]
    prompts = [processor.encode(row, "Is it?" * (2 * i + 1)) for i, row in enumerate(images)]
    most = max(len(prompt.images) for prompt in prompts)
    ours = processor.collate(prompts, prompt_tokens=max(len(p.ids) for p in prompts) + 3, windows=most)
    oracle = oracle_of()
    found = [oracle([row], return_tensors="np") if row else None for row in images]
    pixels = np.zeros((3, most, 3, TILE, TILE), np.float32)
    for row, own in enumerate(found):
        if own is not None:
            pixels[row, : own["pixel_values"].shape[1]] = own["pixel_values"][0]
    mask = np.broadcast_to(pixels.any((2, 3, 4))[..., None, None], (3, most, TILE, TILE)).astype(np.int64)
    arguments = (ours.tokens, ours.is_valid.astype(int), pixels, None, processor.config)
    theirs = prompt_inputs_from_huggingface(*arguments, mask)
    for name in ("tokens", "is_valid", "positions", "feature_index"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    for name in ("coordinates", "image_ids"):
        np.testing.assert_array_equal(getattr(ours.vision, name), getattr(theirs.vision, name), err_msg=name)
    assert ours.vision.places is None and ours.vision.image_ids[2].max() == len(prompts[2].images)
    levels = np.asarray(ours.vision.patches, np.float32).reshape(3, most, 16, 3, -1)
    slope, intercept = processor.images.normalisation[:, :, None]
    normalised = (levels * slope + intercept).reshape(theirs.vision.patches.shape)
    is_there = ours.vision.image_ids > 0
    np.testing.assert_allclose(normalised[is_there], theirs.vision.patches[is_there], atol=1e-6)
    mask[0, 0, TILE // 2 :] = 0
    with pytest.raises(ValueError, match="filled or empty as a whole; row 0"):
        prompt_inputs_from_huggingface(*arguments, mask)
    with pytest.raises(ValueError, match=r"expected tiles \[3, N, 3, 56, 56\]; got \[3, .*, 3, 28, 28\]"):
        prompt_inputs_from_huggingface(ours.tokens, None, pixels[..., :28, :28], None, processor.config)


REFUSALS = [
    ({"do_resize": False}, "do_resize: expected true"),
    ({"resample": 3}, "resample: expected 1 (Lanczos); got 3"),
    ({"max_image_size": {"longest_edge": 64}}, "max_image_size: expected {'longest_edge': 56} (as image_size of"),
    ({"max_image_size": ...}, "max_image_size: expected {'longest_edge': 56}"),  # 364 by default
    ({"size": {"height": 56, "width": 56}}, "size: expected {'longest_edge': a whole number from 1 to 4096}"),
    ({"size": {"longest_edge": 5000}}, "size: expected {'longest_edge': a whole number from 1 to 4096}"),
    ({"do_image_splitting": "yes"}, "do_image_splitting: expected true or false; got 'yes'"),
    ({"image_processor_type": "Qwen2VLImageProcessor"}, "image_processor_type: expected SmolVLMImageProcessor; got"),
]


@pytest.mark.parametrize(("change", "words"), REFUSALS, ids=str)
def test_a_setting_of_tiles_that_is_not_computed_is_refused_by_name(directory, tmp_path, change, words):
    for name in ("preprocessor_config.json", "processor_config.json"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    change_json(tmp_path / "preprocessor_config.json", **change)
    with pytest.raises(ConfigError) as refused:
        read_image_settings(tmp_path, read_qwen_config(directory).vision, **LIMITS)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_what_a_tile_makes_and_what_the_run_allows_are_checked(directory, tmp_path):
    vision = read_qwen_config(directory).vision
    (tmp_path / "preprocessor_config.json").write_bytes((directory / "preprocessor_config.json").read_bytes())
    (tmp_path / "processor_config.json").write_text('{"image_seq_len": 169}')
    with pytest.raises(
        ConfigError, match="image_seq_len of processor_config.json: expected 4, the features of a tile; got 169"
    ):
        read_image_settings(tmp_path, vision, **LIMITS)
    (tmp_path / "processor_config.json").write_text("{}")
    for limits in ((3137, 10**6), (1, 3135)):
        with pytest.raises(ConfigError, match="tiles of 56 x 56 pixels.*expected min <= 3136 <= max; got"):
            read_image_settings(tmp_path, vision, min_pixels=limits[0], max_pixels=limits[1])


def test_a_tokenizer_without_the_marks_is_refused_by_name(directory, tmp_path):
    write_tiny_policy(tmp_path, family="smolvlm")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((tmp_path / name).read_text().replace("<global-img>", "<other>"))
    with pytest.raises(
        ConfigError, match="expected the marks of pictures among its added tokens; <global-img> not found"
    ):
        load_processor(tmp_path, prompt="bare", **LIMITS)


def test_attention_is_not_laid_over_a_picture_in_tiles(processor):
    """The first tile would pass for the picture."""
    with pytest.raises(ConfigError, match="expected a policy that reads pictures whole; got a smolvlm"):
        read_again(processor, [image_of((112, 112))], "Is it?", "yes")


@pytest.mark.slow  # runs both models
def test_a_question_about_a_picture_has_the_logits_of_transformers(directory, processor):
    """From the picture on: by our processor and collation, and from the arrays of transformers' processor."""
    torch = pytest.importorskip("torch")
    import transformers

    question, image = "Is it left?", image_of((130, 90))
    encoded = processor.encode([image], question)
    ids = encoded.ids[None].astype(np.int64)
    found = oracle_of()([[image]], return_tensors="np")
    pixels, mask = found["pixel_values"].astype(np.float32), found["pixel_attention_mask"]
    policy = load_policy(directory, prompt="bare", **LIMITS)
    of_arrays = policy_logits(policy, ids, np.ones_like(ids), pixels, None, mask)
    collated = processor.collate([encoded], prompt_tokens=ids.shape[1], windows=len(encoded.images))
    of_picture = jax.jit(prompt_logits, static_argnums=2)(policy.params, collated, policy.config)
    model = transformers.SmolVLMForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
    arrays = (ids, np.ones_like(ids), pixels, mask)
    names = ("input_ids", "attention_mask", "pixel_values", "pixel_attention_mask")
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(x) for name, x in zip(names, arrays, strict=True)}).logits.numpy()
    for got in (of_arrays, of_picture):  # of weights as wide as 1, which sharpen what rounding differs in
        assert relative_error(got, expected) < 1e-4
