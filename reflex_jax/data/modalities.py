"""HOST: one name for each imaging modality, whatever a data set calls it, so that phases and tables mean the same by it."""

from __future__ import annotations

import functools
import re

# What a name is found by: the first pattern that occurs in the lower-cased words wins.
_PATTERNS = (
    (r"\boct\b|coherence", "OCT"),
    (r"\bcta?\b|computed tomography", "CT"),
    (r"\bmr[aif]?\b|mag-? ?netic", "MRI"),
    (r"mammogra", "Mammography"),
    (r"angiogra|\bdsa\b", "Angiography"),
    (r"fluorosc", "Fluoroscopy"),
    (r"x-? ?rays?\b|xray|radiogra|\bcxr\b", "X-Ray"),
    (r"ultraso|sonogra|\bus\b", "Ultrasound"),
    (r"\bspect\b", "SPECT"),
    (r"\bpet\b|positron", "PET"),
    (r"dermo|dermato", "Dermoscopy"),
    (r"fundus", "Fundus"),
    (r"endosc|colonosc|gastrosc", "Endoscopy"),
    (r"micro|patholog|histolog|stain", "Microscopy"),
)


@functools.lru_cache(maxsize=4096)
def canonical_modality(name: str) -> str:
    """The package's name of a modality ("MR (Mag-netic Resonance Imaging)" -> "MRI"); an unknown one as it is."""
    words = re.sub(r"[_<>]+", " ", name).strip().lower()
    return next((known for pattern, known in _PATTERNS if re.search(pattern, words)), name.strip())
