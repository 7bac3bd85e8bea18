"""Tokenizers that are damaged, do not belong to the model, or make special what a completion must hold."""

import json
import re
import shutil
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from reflex_jax.checkpoints.policy import load_policy
from reflex_jax.config import ConfigError
from reflex_jax.data.prompts import load_processor
from reflex_jax.step.sampling import allowed_tokens
from reflex_jax.text.completion import parse_completion
from reflex_jax.text.tokenizer import TAGS, decode, load_bert_tokenizer, load_policy_tokenizer

ASSETS = Path(__file__).resolve().parents[2] / "reflex_jax" / "assets" / "phantom"
LIMITS = {"min_pixels": 3136, "max_pixels": 12544, "prompt": "bare"}
COMPLETION = "<think> a small nodule </think> <answer> yes </answer>"


@pytest.fixture
def policy(tmp_path):
    return shutil.copytree(ASSETS / "policy", tmp_path / "policy")


@pytest.fixture
def judge(tmp_path):
    return shutil.copytree(ASSETS / "judge", tmp_path / "judge", ignore=shutil.ignore_patterns("*.safetensors"))


def update(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(load, *arguments, **options):
    with pytest.raises(ConfigError) as refused:
        load(*arguments, **options)
    message = str(refused.value)
    assert "\n" not in message and len(message) < 800
    return message


@pytest.mark.parametrize("special", [True, False])
def test_tags_that_are_tokens_of_their_own_are_sampled_and_shown(policy, special):
    """`tokenizer.add_special_tokens` makes them special, which would ban them and strip them from every completion."""
    tokenizer = AutoTokenizer.from_pretrained(policy, local_files_only=True)
    if special:
        tokenizer.add_special_tokens({"extra_special_tokens": TAGS}, replace_extra_special_tokens=False)
    else:
        tokenizer.add_tokens([AddedToken(tag, special=False) for tag in TAGS])
    tokenizer.save_pretrained(policy)
    loaded = load_policy(policy)
    tokenizer = loaded.processor.tokenizer
    ids = tokenizer.convert_tokens_to_ids(list(TAGS))
    assert ids == [1000, 1001, 1002, 1003, 1004, 1005]
    allowed = allowed_tokens(
        1024, tokenizer_length=len(tokenizer), banned_ids=loaded.special_ids, eos_ids=loaded.config.eos_token_ids
    )
    assert allowed[ids].all()
    for token in ("<|im_start|>", "<|image_pad|>", "<|vision_start|>"):
        assert not allowed[tokenizer.convert_tokens_to_ids(token)]
    completion = tokenizer.encode(COMPLETION + "<|im_end|>", add_special_tokens=False)
    assert {id for id, tag in zip(ids, TAGS, strict=True) if tag in COMPLETION} <= set(completion)
    assert decode(tokenizer, completion) == COMPLETION
    assert parse_completion(decode(tokenizer, completion)).is_well_formed


def test_a_tag_with_a_role_is_refused(policy):
    update(policy / "tokenizer_config.json", eos_token="</answer>")
    message = refusal(load_policy_tokenizer, policy)
    assert "</answer> is its eos_token" in message and "Name another token there" in message


def test_tokens_beyond_the_embedding_are_refused_by_name(policy):
    tokenizer = AutoTokenizer.from_pretrained(policy, local_files_only=True)
    tokenizer.add_tokens([f"<|organ_{number}|>" for number in range(24)])  # 1000 + 24: the last row
    tokenizer.save_pretrained(policy)
    assert load_processor(policy, **LIMITS).tokenizer.convert_tokens_to_ids("<|organ_23|>") == 1023
    tokenizer.add_tokens(["<|organ_24|>", "<|organ_25|>"])
    tokenizer.save_pretrained(policy)
    message = refusal(load_processor, policy, **LIMITS)
    assert "config.json has vocab_size 1024, but ids of the tokenizer go up to 1025: 2 tokens have no row" in message
    assert "such as '<|organ_24|>' (1024), '<|organ_25|>' (1025)" in message
    assert "resize_token_embeddings" in message


def test_a_tokenizer_without_padding_token_pads_with_the_models(policy):
    update(policy / "tokenizer_config.json", pad_token=None)
    processor = load_processor(policy, **LIMITS)
    assert processor.tokenizer.pad_token_id is None and processor.pad_id == processor.config.pad_token_id


@pytest.mark.parametrize(
    "name, damage, fault",
    [
        ("tokenizer.json", lambda text: text[: len(text) // 2], "tokenizer.json is no JSON"),
        ("tokenizer.json", lambda text: "[]", "tokenizer.json: expected a JSON object"),
        ("tokenizer.json", lambda text: "{}", "cannot be read"),
        ("tokenizer.json", lambda text: text.replace('"BPE"', '"BPQ"'), "cannot be read"),
        ("tokenizer_config.json", lambda text: "\ufeff" + text, "byte order mark"),
        ("tokenizer_config.json", lambda text: text.replace("Qwen2Tokenizer", "NoSuchTokenizer"), None),
        ("vocab.json", lambda text: "", "vocab.json is empty"),
        ("merges.txt", lambda text: "version https://git-lfs.github.com/spec/v1\noid x\n", "merges.txt is a Git LFS pointer"),
    ],
)  # fmt: skip
def test_a_damaged_file_of_the_policys_tokenizer_is_one_line(policy, name, damage, fault):
    path = policy / name
    path.write_text(damage(path.read_text()))
    if fault is None:  # transformers reads it with the class of the tokenizers library
        assert decode(load_policy_tokenizer(policy), [32, 33]) == "AB"
        return
    message = refusal(load_policy_tokenizer, policy)
    assert message.startswith("policy.path: ") and re.search(fault, message)


def test_a_cut_vocabulary_is_noticed(policy):
    """The added tokens would move up, to ids that mean other rows of the embedding."""
    (policy / "tokenizer.json").unlink()
    vocabulary = json.loads((policy / "vocab.json").read_text())
    assert len(load_policy_tokenizer(policy)) == 1000
    words = [token for token, index in vocabulary.items() if len(token) == 1 and index < 900]
    kept = {token: index for token, index in vocabulary.items() if index < 900}
    (policy / "vocab.json").write_text(json.dumps(kept))
    merges = (policy / "merges.txt").read_text().splitlines()
    fitting = [line for line in merges if line.startswith("#") or line.replace(" ", "") in kept]
    (policy / "merges.txt").write_text("\n".join(fitting) + "\n")
    assert "added tokens have other ids: '<|endoftext|>' is 900, declared as 978" in refusal(
        load_policy_tokenizer, policy
    )
    (policy / "vocab.json").write_text(json.dumps({t: i for t, i in vocabulary.items() if t not in words[5:9]}))
    (policy / "merges.txt").write_text("#version: 0.2\n")
    assert "text is not given back" in refusal(load_policy_tokenizer, policy)


def test_lost_merges_are_noticed(policy):
    """They would split words into smaller pieces than the model was trained on."""
    whole = json.loads((policy / "tokenizer.json").read_text())
    lost = whole["model"] | {"merges": whole["model"]["merges"][:-3]}
    (policy / "tokenizer.json").write_text(json.dumps(whole | {"model": lost}))
    assert "3 words are made by no merge: " in refusal(load_policy_tokenizer, policy)
    (policy / "tokenizer.json").unlink()
    load_policy_tokenizer(policy)
    lines = (policy / "merges.txt").read_text().splitlines()
    (policy / "merges.txt").write_text("\n".join(lines[:-10]) + "\n")
    assert "10 words are made by no merge: " in refusal(load_policy_tokenizer, policy)


@pytest.mark.parametrize("token", ["[CLS]", "[SEP]", "[PAD]", "[UNK]"])
def test_a_judge_without_one_of_its_special_tokens_is_refused(judge, token):
    words = (judge / "vocab.txt").read_text()
    (judge / "vocab.txt").write_text(words.replace(f"{token}\n", f"[x{token[1]}]\n"))
    message = refusal(load_bert_tokenizer, judge)
    assert message.startswith("judge.path: ") and (token in message or "cannot be read" in message)
    (judge / "vocab.txt").write_text(words)
    load_bert_tokenizer(judge)


def test_a_judges_vocabulary_that_is_no_text_is_refused(judge):
    for content, fault in ((b"\xff\xfe[\x00", "vocab.txt is not UTF-8"), (b"", "vocab.txt is empty")):
        (judge / "vocab.txt").write_bytes(content)
        assert fault in refusal(load_bert_tokenizer, judge)
