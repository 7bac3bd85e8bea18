"""HOST: the prompts by name: what the user turn says around the question, and which shape of completion it asks for.

All are in the package's own words. The structure of `medix` is that of MediX-R1, of `answer_only` that of Med-R1 without
thoughts, of the `rarl` ones that of RARL: three texts of which each question draws one, and its two prompts of inference.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from reflex_jax.text.completion import DEFAULT_SHAPE, CompletionShape

QUESTION = "{question}"
MODALITY_TAGS = (
    "X_RAY", "MICROSCOPY", "CLINICAL_PHOTOGRAPHY", "CT_SCAN", "GRAPHICS", "ANGIOGRAPHY", "PET_SCAN", "ULTRASOUND", "MRI_SCAN",
    "FUNDUS_PHOTOGRAPHY", "OCT_SCAN", "ENDOSCOPY", "MAMMOGRAPHY", "FLUOROSCOPY", "OTHER", "SPECT",
)  # fmt: skip


@dataclass(frozen=True)
class Prompt:
    """A choice of `data.prompt`."""

    texts: tuple[str, ...]  # each with `QUESTION`; of several each question has one, see `text_of`
    shape: CompletionShape = DEFAULT_SHAPE  # of the completions it asks for; the section `completion` says otherwise

    def text_of(self, example_id: str, seed: int) -> str:
        """The text of a question, drawn evenly from its id and the seed: the same in every pass and every process."""
        if len(self.texts) == 1:
            return self.texts[0]
        digest = hashlib.blake2b(f"{seed}:{example_id}".encode("utf-8", "replace"), digest_size=8).digest()
        return self.texts[int.from_bytes(digest, "big") % len(self.texts)]


_ROLE = "You are a medical assistant who answers questions about medical images.\n"
_THINK_THEN_ANSWER = "Reason inside <think> </think>, then give the answer inside <answer> </answer>.\n"
_TURNS = f"\nUser: {QUESTION}\nAssistant:"
_EXPLAIN = (
    f"{_ROLE}{_THINK_THEN_ANSWER}Explain your clinical reasoning and the visual signs it rests on, one step after the other."
    f"{_TURNS} Let me solve this step by step."
)

PROMPTS: dict[str, Prompt] = {
    "think_answer": Prompt(
        (
            f"{QUESTION}\n\n"
            "Work in this order:\n"
            "1. Think step by step about what the image shows and what follows from it, inside <think> </think>.\n"
            "2. Then give your answer in as few words as the question allows, inside <answer> </answer>; "
            "for lettered options the letter alone.\n"
            "3. Write one such pair of blocks and nothing outside them.",
        )
    ),
    "bare": Prompt((QUESTION,)),
    "answer_only": Prompt(
        (
            f"{QUESTION}\n\n"
            "Give your answer in as few words as the question allows, inside <answer> </answer>; for lettered options the "
            "letter alone. Write nothing else.",
        ),
        CompletionShape(thought="none"),
    ),
    "medix": Prompt(
        (
            "You are a medical AI assistant with advanced reasoning.\n"
            "Write these parts in this order:\n"
            "1. The kind of the image as one tag and no other word, one of "
            f"{', '.join(f'<{tag}>' for tag in MODALITY_TAGS)}.\n"
            "2. Your reasoning, inside <thinking> </thinking>.\n"
            "3. Your answer, inside <answer> </answer>.\n"
            "4. Nothing more.\n\n"
            f"Question: {QUESTION}",
        ),
        CompletionShape(thought="thinking", preamble=True, fallback=True, compact=True),
    ),
    "rarl": Prompt(
        (
            _EXPLAIN,
            f"{_ROLE}{_THINK_THEN_ANSWER}Keep the answer short and factual.{_TURNS}",
            f"{_ROLE}{_THINK_THEN_ANSWER}Weigh every visual detail and all of the context, and end with your best judgement."
            f"{_TURNS}",
        )
    ),
    "rarl_reasoning": Prompt((_EXPLAIN,)),
    "rarl_direct": Prompt(
        (f"{_ROLE}Give the answer inside <answer> </answer> and no reasoning.{_TURNS}",),
        CompletionShape(thought="none"),
    ),
}
