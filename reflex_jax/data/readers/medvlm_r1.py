"""HOST: MedVLM-R1's test file from its repository.

Pan, Liu, Wu, Liu, Zhu, Li, Chen, Ouyang, Rueckert: "MedVLM-R1: Incentivizing Medical Reasoning Capability of Vision-Language
Models (VLMs) via Reinforcement Learning", MICCAI 2025. One split, "test": 300 questions each of MRI, CT and X-ray out of the
evaluation data of HuatuoGPT-Vision, read as those are (`medical_multimodal_eval`), with the right letter besides; the
published training set shows the same pictures.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from reflex_jax.data.layouts import Layout, Rows, present
from reflex_jax.data.picture_files import PictureFiles
from reflex_jax.data.readers.medical_multimodal_eval import read_bundle

_FILES = {"test": "MRI_CT_XRAY_300each_dataset.json"}
_ARCHIVES = ("Huatuo/images.zip", "images.zip")
_FOLDERS = ("Huatuo/", "Huatuo/images/", "")  # the repository's script looks into the first


def _read(root: Path, split: str) -> Rows:
    pictures = PictureFiles(root, [root / archive for archive in _ARCHIVES])
    return read_bundle(root / _FILES[split], pictures, _FOLDERS, split)


LAYOUT = Layout(
    splits=partial(present, files=_FILES),
    read=_read,
    files=(*_FILES.values(), *_ARCHIVES, "Huatuo/images/**/*", "images/**/*"),
    expects="MRI_CT_XRAY_300each_dataset.json beside Huatuo/images or images.zip",
    version="2.0.0",
    homepage="https://github.com/JZPeterPan/MedVLM-R1",
)
