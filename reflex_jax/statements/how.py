"""HOST: questions for a number, a measure, a manner or a reason: "how many kidneys", "how large", "how", "why"."""

from __future__ import annotations

import re

from reflex_jax.statements import grammar
from reflex_jax.statements.phrases import PLANES, noun_phrase
from reflex_jax.statements.polar import polar_clauses
from reflex_jax.statements.question import Question, find_core, split_at_auxiliary


def declare_count(question: Question, answer: str) -> str | None:
    """`how many kidneys does the image have`."""
    match = re.match(r"^how many (.+)$", find_core(question))
    if not match:
        return None
    words = [word for word in match[1].split() if word not in {"existing", "there"}]
    end = next(
        (i for i, w in enumerate(words) if i and (w in grammar.AUXILIARIES or w in {"in", "on", "within"})), len(words)
    )
    rest = re.sub(r"^(?:is|are|was|were|have|has|can|do|does)\b ?", "", " ".join(words[end:]))
    rest = re.sub(r"^(?:there|present|existed|be)\b ?", "", rest)
    rest = re.sub(
        r"^(?:you see|(the image|the picture|this image) have)$", lambda m: f"in {m[1]}" if m[1] else "", rest
    )
    noun = " ".join(words[:end])
    counted = answer.split()
    if counted[-1] == noun.split()[-1]:
        return f"there {'is' if counted[0] in {'1', 'one', 'a'} else 'are'} {answer} {rest}".strip() + "."
    if answer in {"1", "one"}:
        return f"there is {answer} {grammar.singular(noun)} {rest}"
    return f"there are {answer} {noun} {rest}"


def declare_measure(question: Question, answer: str) -> str | None:
    """`how large is the mass`, `how much fluid is seen`, `how long does the lesion last`."""
    core = re.sub(r"^approximately ", "", find_core(question))
    match = re.match(r"^how (much|long) (.+)$", core)
    noun, auxiliary, rest = split_at_auxiliary(match[2]) if match else ("", "", [])
    if noun and rest:
        return f"the amount of {noun} that {auxiliary} {' '.join(rest)} is {answer}"
    if match and rest and auxiliary in grammar.DO:
        clauses = polar_clauses(f"{auxiliary} {' '.join(rest)}")
        return clauses and f"the {'time' if match[1] == 'long' else 'amount'} that {clauses[0]} is {answer}"
    match = re.match(r"^how (big|large|small|wide|long|tall|thick|high|much) (?:is|are|was) (.+)$", core)
    if not match:
        return None
    quality = {
        "wide": "width",
        "long": "length",
        "tall": "height",
        "high": "height",
        "thick": "thickness",
        "much": "amount",
    }
    return f"the {quality.get(match[1], 'size')} of {match[2]} is {answer}"


def declare_how(question: Question, answer: str) -> str | None:
    """`how was this image taken`, `how can you tell that the heart is enlarged`."""
    core = find_core(question)
    match = re.match(r"^how (was|is|were) (.+?) (taken|obtained|acquired|made)$", core)
    if match:
        if answer.split()[0] in grammar.PREPOSITIONS:
            return f"{match[2]} {match[1]} {match[3]} {answer}"
        return f"{match[2]} {match[1]} {match[3]} " + (
            f"in the {answer} plane" if answer in PLANES else f"using {answer}"
        )
    match = re.match(r"^how to (.+)$", core)
    if match:
        return f"the way to {match[1]} is {answer}"
    match = re.match(
        r"^how (?:can|do|would|could) you (?:tell|know|confirm|determine)(?: that)?( if| whether| which)? (.+)$", core
    )
    if match:
        known = f"{match[1].strip().replace('if', 'whether')} {match[2]} is" if match[1] else match[2]
        return f"{known} shown by this: {answer}" if match[1] else f"{known}, as shown by this: {answer}"
    return None


def declare_describe(question: Question, answer: str) -> str | None:
    """`how would you describe the liver`, `how is the patient oriented`, `name the organ`."""
    core = find_core(question)
    match = re.match(
        r"^(?:how (?:would|do|can|could) (?:you|we) (?:describe|call)|(?:please )?(?:describe|identify|name)|"
        r"can you (?:name|identify|describe)) (.+)$",
        core,
    )
    if match:
        return f"{match[1]} {grammar.be_for(match[1])} {noun_phrase(answer)}"
    match = re.match(
        r"^how (is|are|can) (.+?)(?: (?:be )?(described|characterized|categorized|oriented|positioned)\b(.*))?$", core
    )
    if not match:
        return None
    be = "can be" if match[1] == "can" else match[1]
    return f"{match[2]} {be} {match[3]}{match[4]} as {answer}" if match[3] else f"{match[2]} {be} {answer}"


def declare_why(question: Question, answer: str) -> str | None:
    """`why is the right kidney enlarged`."""
    match = re.match(r"^why (.+)$", find_core(question))
    clauses = match and polar_clauses(re.sub(r"^do you not see", "are there no", match[1]))
    if not clauses:
        return None
    is_clause = re.match(r"^(?:there|it|this|they|because|due|the .+ (?:is|are)\b|.+ is not\b)", answer)
    return f"{clauses[0]} {'because' if is_clause else 'due to'} {answer}"
