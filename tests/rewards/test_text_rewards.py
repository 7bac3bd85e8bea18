"""Rewards that a text encoder measures, with an encoder of given numbers; and the rules about answers beside them, by hand."""

import pytest

from reflex_jax.rewards.answered import Answered, Failed
from reflex_jax.rewards.components import REWARDS
from reflex_jax.rewards.validity import is_valid_answer
from reflex_jax.text.completion import CompletionShape, parse_completion


class GivenEncoder:
    """Says what a table says, and notes what it is asked."""

    def __init__(self, table):
        self.table, self.asked = table, []

    def cosines(self, pairs, *, pooling):
        self.asked.append((list(pairs), pooling))
        return [self.table[pair] for pair in pairs]

    def greedy_f1(self, pairs, *, layer):
        self.asked.append((list(pairs), layer))
        return [self.table[pair] for pair in pairs]


TABLE = {
    ("left lung", "right lung"): 0.85, ("heart", "right lung"): 0.8, ("cat", "right lung"): 0.79, ("cat", "lung"): -0.5,
    ("left lung", "lung"): 0.9, ("yes", "no"): 0.95, ("B", "right lung"): 0.99, ("lung: right", "right lung"): 0.97,
}  # fmt: skip


def answered(answer, truth="right lung", accepted=(), answer_type="open", completion="", **metadata):
    return Answered(
        question="What is shown?", completion=completion, answer=answer, truth=truth, accepted=accepted,
        answer_type=answer_type, metadata=metadata,
    )  # fmt: skip


def pay(name, rows, *, encoder="judge", **options):
    given = GivenEncoder(TABLE)
    defaults = {key: option.default for key, option in REWARDS[name].options.items()}
    chosen = defaults | {"encoder": encoder} | options
    REWARDS[name].check_options(**chosen)
    scores = REWARDS[name].score(rows, chosen, {"text_encoders": {encoder: given}})
    return scores, given.asked


def test_a_cosine_that_reaches_the_threshold_is_paid():
    rows = [answered(a) for a in ("left lung", "heart", "cat", None, "", " . ")]
    assert pay("embedding_similarity", rows)[0] == [1, 1, 0, 0, 0, 0]
    assert pay("embedding_similarity", rows, threshold=0.85)[0] == [1, 0, 0, 0, 0, 0]
    assert pay("embedding_similarity", rows, threshold=None)[0] == [0.85, 0.8, 0.79, 0, 0, 0]


def test_the_same_text_is_paid_unasked_and_full_stops_do_not_count():
    scores, asked = pay("embedding_similarity", [answered(".right lung. "), answered("right lung")], threshold=None)
    assert (scores, asked) == ([1, 1], [([], None)])
    assert pay("embedding_similarity", [answered("left lung.", truth=" right lung.")])[1] == [
        ([("left lung", "right lung")], None)
    ]


def test_the_best_of_the_accepted_answers_counts_and_all_are_asked_at_once():
    rows = [answered("cat", accepted=("lung",)), answered("left lung", accepted=("lung",))]
    scores, asked = pay("embedding_similarity", rows, threshold=None, pooling="mean", encoder="/bert")
    assert scores == [0.79, 0.9] and len(asked) == 1 and asked[0][1] == "mean" and len(asked[0][0]) == 4
    assert pay("bertscore", rows, layer=2, encoder="/bert")[0] == [0.79, 0.9]


@pytest.mark.parametrize(
    ("answer", "is_valid"),
    [
        ("ok", True),
        ("B", False),
        (" B. ", False),
        ("", False),
        (None, False),
        ("a__b", False),
        ("a_b", True),
        ("a: b", False),
        ("a?", False),
    ],
)
def test_an_answer_that_the_gate_refuses_earns_nothing_where_it_is_asked_for(answer, is_valid):
    assert is_valid_answer(answer) == is_valid
    row = answered(answer, truth=answer or "none")
    expected = {"answer": float(bool(answer)), "embedding_similarity": float(bool(answer))}
    for name, without in expected.items():
        for valid_only in (True, False):
            options = {k: o.default for k, o in REWARDS[name].options.items()} | {"valid_only": valid_only}
            resources = {"text_encoders": {"judge": GivenEncoder({})}}
            assert REWARDS[name].score([row], options, resources) == [without * (is_valid or not valid_only)], name


def test_the_gate_is_before_the_encoder():
    rows = [answered("B"), answered("lung: right")]
    assert pay("embedding_similarity", rows)[0] == [1, 1]
    assert pay("embedding_similarity", rows, valid_only=True) == ([0, 0], [])
    assert pay("bertscore", rows, valid_only=True)[0] == [0, 0]


def test_bertscore_pays_closed_questions_by_exact_match_unless_told_otherwise():
    rows = [answered("yes", "no", answer_type="closed"), answered("no.", "no", answer_type="closed"), answered("heart")]
    assert pay("bertscore", rows)[0] == [0, 1, 0.8]
    assert pay("bertscore", rows[:1], closed="bertscore")[0] == [0.95]
    assert pay("bertscore", [answered(None, "no", answer_type="closed"), answered(None)])[0] == [0, 0]


def think(thought):
    return f"<think>{thought}</think><answer>x</answer>"


def test_reasoning_is_scored_where_there_is_a_reference():
    rows = [
        answered("x", completion=think("left lung"), reasoning="right lung"),
        answered("x", completion=think("left lung")),
        answered("x", completion="<answer>x</answer>", reasoning="right lung"),
        answered("x", completion=think(" \n"), reasoning="right lung"),
    ]
    assert pay("reasoning", rows)[0] == [0.85, None, 0, 0]
    scores, asked = pay("reasoning", rows, measure="embedding", pooling="cls")
    assert scores == [0.85, None, 0, 0] and asked == [([("left lung", "right lung")], "cls")]


def test_an_encoder_that_fails_fails_its_rows():
    scores, _ = pay("embedding_similarity", [answered("unheard of"), answered("right lung")])
    assert all(isinstance(score, Failed) and score.error == "KeyError" for score in scores)


def test_without_the_encoders_of_a_run_every_row_fails_and_says_so():
    options = {key: option.default for key, option in REWARDS["bertscore"].options.items()}
    (failed,) = REWARDS["bertscore"].score([answered("x")], options)
    assert (
        isinstance(failed, Failed)
        and failed.message == "resources: expected text_encoders, which the run opens; got none."
    )


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("embedding_similarity", {"threshold": 1.5}, r"threshold: expected a cosine in \(-1, 1\]"),
        ("embedding_similarity", {"pooling": "max"}, "pooling: expected one of projection, cls, mean"),
        ("embedding_similarity", {"pooling": "projection", "encoder": "/bert"}, "pooling: expected one of cls, mean"),
        (
            "embedding_similarity",
            {"threshold": 2.0, "pooling": "max"},
            r"pooling: .*; got 'max'; threshold: .*; got 2.0\.$",
        ),
        ("bertscore", {"layer": -1}, "layer: expected 0 for the embedding"),
        ("bertscore", {"closed": "f1"}, "closed: expected exact or bertscore; got 'f1'"),
        ("reasoning", {"measure": "rouge"}, "measure: expected bertscore or embedding; got 'rouge'"),
    ],
)
def test_options_out_of_range_are_refused(name, options, told):
    defaults = {key: option.default for key, option in REWARDS[name].options.items()}
    with pytest.raises(ValueError, match=told):
        REWARDS[name].check_options(**(defaults | options))


# --- the modality tag

MEDIX = CompletionShape(thought="thinking", preamble=True, fallback=True, compact=True)


@pytest.mark.parametrize(
    ("completion", "paid"),
    [
        ("<CT_SCAN><thinking>t</thinking><answer>a</answer>", 1),
        (" <ct_scan>\n<thinking>t", 1),
        ("< CT_SCAN > <thinking>t</thinking>", 1),  # white space around the marks is deleted
        ("CT_SCAN<thinking>t</thinking>", 0),
        ("It is <CT_SCAN><thinking>t</thinking>", 0),
        ("<X_RAY><thinking>t</thinking>", 0),
        ("<thinking>t</thinking>", 0),
        ("<CT_SCAN><answer>a</answer>", 0),  # no thought tag
    ],
)
def test_the_tag_before_the_thought_is_that_of_the_picture(completion, paid):
    row = answered("a", completion=completion, modality="CT_SCAN")
    parsed = Answered(**{**vars(row), "parsed": parse_completion(completion, MEDIX)})
    assert REWARDS["modality"].score([parsed, answered("a", completion=completion)], {}) == [paid, None]
