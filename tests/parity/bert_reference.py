"""A tiny random BERT in Hugging Face's directory layout, and the model of transformers it came from."""

import json
from pathlib import Path

from tests.parity.judge_reference import WORDS

POSITIONS = 40


def write_bert(directory: Path, *, seed: int = 0, **settings):
    """Configuration, tokenizer and random weights; returns the torch model in eval mode."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    directory.mkdir(parents=True, exist_ok=True)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789.,-[]'&<>?")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters), *WORDS[1:]]
    vocabulary = list(dict.fromkeys(vocabulary))
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = {
        "tokenizer_class": "BertTokenizer", "do_lower_case": True, "mask_token": "[MASK]", "model_max_length": POSITIONS,
        **special,
    }  # fmt: skip
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    sizes = {
        "vocab_size": len(vocabulary), "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": POSITIONS,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = BertModel(BertConfig(**{**sizes, **settings})).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # as wide as trained weights, so that attention is not flat
            if parameter.ndim > 1:
                parameter.mul_(5.0)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    assert BertTokenizer.from_pretrained(directory).vocab_size == len(vocabulary)
    return model
