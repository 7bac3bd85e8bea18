"""HOST: the answer as a phrase inside a statement: with its article, and with the noun that the question gives it."""

from __future__ import annotations

import re

from reflex_jax.statements import grammar, verbs

PLANES = frozenset("axial coronal sagittal saggital transverse pa ap lateral posteroanterior anteroposterior".split())
# Answers of these words alone say which one of what the question names: left, lower right, axial.
MODIFIERS = (
    grammar.SIDES
    | PLANES
    | set("gray grey white and or frontal parietal temporal occipital cervical thoracic lumbar sacral".split())
)
# Answers with these heads are things every body has one or two of.
_DEFINITE = frozenset(
    "brain lung lungs heart liver spleen kidney kidneys stomach chest abdomen head neck pancreas appendix trachea "
    "esophagus colon bladder gallbladder aorta diaphragm jejunum cecum duodenum thorax pelvis bowel lobe lobes "
    "hemisphere ventricle ventricles artery vein gland fossa thalamus ganglia cerebellum fissure hilum apex rib "
    "side plane region rectus".split()
)


def noun_phrase(answer: str, *, is_new: bool = False) -> str:
    """The answer as the end of `the organ is ...`: with an article where its head is known to need one.

    Args:
      answer: any phrase.
      is_new: for `there is ...`, where "the" would be wrong.
    """
    words = re.split(r" (?:of|in|with|for) ", answer)[0].split()
    if words[0] in grammar.DETERMINERS | {"not"} or grammar.begins_with_preposition(answer) or "," in answer:
        return answer
    if is_command(answer):
        return answer
    if words[-1] in _DEFINITE and len(words) <= 4 and not is_new:
        return f"the {answer}"
    if words[-1] in grammar.COUNT_NOUNS and words[0][0].isalpha() and "and" not in words:
        return grammar.indefinite(answer)
    return answer


def is_command(answer: str) -> bool:
    """Whether an answer says what to do: `obtain a ct scan`, `start heparin`."""
    words = answer.split()
    if len(words) < 2 or not verbs.is_base(words[0]):
        return False
    return words[1] in grammar.DETERMINERS or (
        verbs.is_plainly_base(words[0]) and words[0] not in {"cover", "cross", "end"}
    )


def specify(noun: str, answer: str) -> tuple[str, str]:
    """(`the right lobe`, mark) from `lobe` and right, right lobe or anything else."""
    bare = re.sub(r"^(?:a|an|the) ", "", answer)
    noun = re.sub(r"^(?:type|kind|form|sort)s? of ", "", noun)
    words, head = bare.replace(",", "").split(), re.split(r" (?:of|in) ", noun)[0].split()[-1]
    if all(word in MODIFIERS for word in words):
        return f"the {bare} {noun}", ""
    mark = "." if words[-1] == head and all(word in MODIFIERS for word in words[:-1]) else ""
    return (bare if re.match(r"[a-z]?\d+(?!\d|st|nd|rd|th)", bare) else f"the {bare}"), mark


def head_noun(noun: str) -> str:
    """`side` of "side of the brain"."""
    return re.split(r" (?:of|in) ", noun)[0].split()[-1]
