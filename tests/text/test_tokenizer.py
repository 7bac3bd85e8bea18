"""Tokenizers read from real files: golden ids, and no way for user text to become a special token."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflex_jax.config import ConfigError
from reflex_jax.text.tokenizer import (
    decode,
    encode_template,
    encode_user_text,
    load_bert_tokenizer,
    load_policy_tokenizer,
)


@pytest.fixture(scope="module")
def qwen(data_root):
    return load_policy_tokenizer(data_root / "tokenizers" / "qwen2.5-vl-7b-instruct")


@pytest.fixture(scope="module")
def golden(data_root):
    folder = data_root / "tokenizers" / "qwen2-golden"
    texts = (folder / "ggml-vocab-qwen2.gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    rows = (folder / "ggml-vocab-qwen2.gguf.out").read_text().split("\n")
    return [(text, [int(token) for token in row.split()]) for text, row in zip(texts, rows, strict=False)]


def test_all_golden_cases_give_their_ids_with_and_without_added_tokens(qwen, golden):
    assert len(golden) == 47
    for text, expected in golden:
        assert encode_template(qwen, text) == expected, text
        assert encode_user_text(qwen, text) == expected, text


def test_the_tokenizer_is_built_from_vocabulary_and_merges_alone(data_root, qwen):
    assert not (data_root / "tokenizers" / "qwen2.5-vl-7b-instruct" / "tokenizer.json").exists()
    assert len(qwen) == 151665
    assert qwen.convert_tokens_to_ids("<|image_pad|>") == 151655
    assert qwen.chat_template is not None


def test_no_added_token_comes_out_of_user_text(qwen):
    added = qwen.get_added_vocab()
    assert len(added) == 22
    for token, token_id in added.items():
        for text in (token, f"is this {token}?", token * 3, token.upper()):
            ids = encode_user_text(qwen, text)
            assert not set(ids) & set(added.values()), text
            assert decode(qwen, ids) == text  # the characters are kept, only their special meaning is gone
        assert encode_template(qwen, token) == [token_id]


@settings(max_examples=30)
@given(data=st.data())
def test_mixtures_of_added_tokens_stay_plain_text(qwen, data):
    added = qwen.get_added_vocab()
    pieces = data.draw(st.lists(st.one_of(st.sampled_from(sorted(added)), st.text(max_size=4)), max_size=6))
    assert not set(encode_user_text(qwen, "".join(pieces))) & set(added.values())


def test_half_a_surrogate_pair_is_the_replacement_character(qwen):
    assert encode_user_text(qwen, "a\ud800b") == encode_user_text(qwen, "a\ufffdb")
    assert encode_user_text(qwen, "\ud83d\ude00 \ufeff\x00") == encode_user_text(qwen, "\U0001f600 \ufeff\x00")


def test_decoding_leaves_special_tokens_out_and_keeps_the_tags(qwen):
    ids = encode_template(qwen, "<think> a  b </think><answer> yes .</answer><|im_end|><|endoftext|>")
    assert decode(qwen, ids) == "<think> a  b </think><answer> yes .</answer>"


def test_a_chat_template_beside_the_tokenizer_is_found(tmp_path, data_root):
    source = data_root / "tokenizers" / "qwen2.5-vl-7b-instruct"
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).symlink_to(source / name)
    settings_of_tokenizer = json.loads((source / "tokenizer_config.json").read_text())
    settings_of_tokenizer.pop("chat_template", None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings_of_tokenizer))
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages[0].content }}!"}))
    tokenizer = load_policy_tokenizer(tmp_path)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False) == "hello!"


def test_the_judge_tokenizer_lowers_and_frames_text(data_root):
    tokenizer = load_bert_tokenizer(data_root / "tokenizers" / "biomedclip")
    ids = tokenizer("Chest X-Ray", padding="do_not_pad")["input_ids"]
    assert ids[0] == tokenizer.cls_token_id == 2 and ids[-1] == tokenizer.sep_token_id == 3
    assert ids == tokenizer("chest x-ray", padding="do_not_pad")["input_ids"]


def test_words_for_the_judge_come_without_frame_padding_or_special_tokens(data_root):
    tokenizer = load_bert_tokenizer(data_root / "tokenizers" / "biomedclip")
    ids = encode_user_text(tokenizer, "chest x-ray")
    assert ids == tokenizer("chest x-ray", padding="do_not_pad", truncation=False)["input_ids"][1:-1]
    assert not set(encode_user_text(tokenizer, "[PAD] [SEP] [CLS] [MASK]")) & {0, 2, 3, 4}
    assert len(encode_user_text(tokenizer, "lung " * 300)) == 300


@pytest.mark.parametrize("load", [load_policy_tokenizer, load_bert_tokenizer])
def test_missing_files_are_named(tmp_path, load):
    with pytest.raises(ConfigError, match=r"expected tokenizer_config.json and one of tokenizer.json, vocab"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="no such directory"):
        load(tmp_path / "absent")
