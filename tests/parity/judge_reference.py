"""A tiny random BiomedCLIP in open_clip's directory layout, and the judge's mathematics in plain torch."""

import json
from pathlib import Path

import numpy as np

IMAGE_SIZE, PATCH_SIZE, WIDTH, LAYERS, HEADS, EMBED_DIM = 112, 8, 48, 2, 4, 24
GRID = IMAGE_SIZE // PATCH_SIZE
CONTEXT = 256
TIMM_NAME = "vit_reflex_test"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WORDS = "there is a no the nodule cyst left right side on lung of image ct in chest effusion seen and".split()


def write_judge_directory(directory: Path) -> Path:
    """Configuration and tokenizer files, without weights."""
    directory.mkdir(parents=True, exist_ok=True)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789.,-[]'&<>?")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters), *WORDS[1:]]
    vocabulary = list(dict.fromkeys(vocabulary))
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "mask_token": "[MASK]", **special}
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    bert = {
        "model_type": "bert", "vocab_size": len(vocabulary), "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 260, "type_vocab_size": 2,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(bert))
    vision = {
        "timm_model_name": TIMM_NAME, "timm_pool": "", "timm_proj": "linear", "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE, "width": WIDTH, "layers": LAYERS, "heads": HEADS,
    }  # fmt: skip
    text = {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": CONTEXT}
    model = {"embed_dim": EMBED_DIM, "vision_cfg": vision, "text_cfg": text}
    written = {"model_cfg": model, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (directory / "open_clip_config.json").write_text(json.dumps(written))
    return directory


def write_judge(directory: Path, *, seed: int = 0):
    """Also random weights; returns the open_clip model they came from."""
    import torch
    from safetensors.torch import save_file

    write_judge_directory(directory)
    torch.manual_seed(seed)
    model = build_torch_model(directory)
    with torch.no_grad():
        for parameter in model.parameters():  # as wide as trained weights, so that attention is not flat
            if parameter.ndim > 1:
                parameter.mul_(3.0)
            elif parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    save_file(model.state_dict(), directory / "open_clip_model.safetensors", metadata={"format": "pt"})
    return model


def build_torch_model(directory: Path):
    """open_clip's own classes with the sizes of a directory, in eval mode, attention probabilities in the open."""
    import open_clip
    import timm

    if not timm.is_model(TIMM_NAME):
        timm.models.register_model(vit_reflex_test)
    written = json.loads((directory / "open_clip_config.json").read_text())["model_cfg"]
    known = ("timm_model_name", "timm_pool", "timm_proj", "image_size")
    vision = {key: value for key, value in written["vision_cfg"].items() if key in known}
    text = {**written["text_cfg"], "hf_model_name": str(directory), "hf_model_pretrained": False}
    model = open_clip.CustomTextCLIP(written["embed_dim"], vision_cfg=vision, text_cfg=text).eval()
    for block in model.visual.trunk.blocks:
        block.attn.fused_attn = False
    return model


def vit_reflex_test(pretrained=False, **_):
    """Entry for timm's registry, which finds models by the name of their function."""
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=IMAGE_SIZE, patch_size=PATCH_SIZE, embed_dim=WIDTH, depth=LAYERS, num_heads=HEADS
    )
    model.default_cfg = {}
    return model


def torch_saliency(model, pixels, directions, *, method: str, block: int) -> np.ndarray:
    """Saliency by one autograd pass per statement: pixels [P,3,Y,X], unit directions [P,S,E] -> [P,S,h,w]."""
    import torch

    blocks = model.visual.trunk.blocks
    first = block % len(blocks)
    kept: dict[str, list] = {"normed": [], "attention": []}

    def keep(name):
        return lambda module, inputs, output: kept[name].append(output)

    hooks = [blocks[first].norm1.register_forward_hook(keep("normed"))]
    hooks += [b.attn.attn_drop.register_forward_hook(keep("attention")) for b in blocks[first:]]
    with torch.enable_grad():
        embeddings = torch.nn.functional.normalize(model.encode_image(pixels.requires_grad_()), dim=-1)
        wanted = kept["attention"] if method == "attention_gradient" else kept["normed"]
        maps = []
        for s in range(directions.shape[1]):
            score = (embeddings * directions[:, s]).sum()
            gradients = torch.autograd.grad(score, wanted, retain_graph=True)
            maps.append(_explain(wanted, gradients, method))
    for hook in hooks:
        hook.remove()
    return torch.stack(maps, 1).reshape(*directions.shape[:2], GRID, GRID).detach().numpy()


def _explain(values, gradients, method):
    import torch

    if method == "attention_gradient":
        identity = torch.eye(values[0].shape[-1])
        rollout = identity
        for attention, gradient in zip(values, gradients, strict=True):
            rollout = (identity + (attention * gradient).clamp(min=0).mean(1)) @ rollout
        return rollout[:, 0, 1:]
    activation, gradient = values[0][:, 1:], gradients[0][:, 1:]
    if method == "gradcam":
        gradient = gradient.mean(1, keepdim=True)
    return (activation * gradient).sum(-1)
