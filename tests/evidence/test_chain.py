"""A chain of lines: whatever is changed in it is named with its line."""

import hashlib
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex_jax.config import ConfigError
from reflex_jax.evidence.chain import GENESIS, Head, canonical, extend, find_faults
from reflex_jax.evidence.log import EvidenceLog, head_of
from reflex_jax.evidence.reader import EVIDENCE_FILE, HEAD_FILE, check_evidence, read_head
from reflex_jax.stops import RunStopped

RECORDS = [{"n": n, "text": f"stätement {n}\ud800", "score": 0.1 * n, "none": None} for n in range(7)]


@pytest.fixture
def run(tmp_path):
    """A directory with seven lines of evidence."""
    log = EvidenceLog(tmp_path, head=Head(), step=0, is_writing=True)
    log.append(1, RECORDS[:3])
    log.append(2, RECORDS[3:])
    log.close()
    return tmp_path


def lines(directory) -> list[bytes]:
    return (directory / EVIDENCE_FILE).read_bytes().splitlines(keepends=True)


def named(directory, known=None) -> set[int]:
    return {fault.line for fault in check_evidence(directory, known or {})}


def test_what_was_written_is_whole_and_its_hash_can_be_computed_by_hand(run):
    assert check_evidence(run, {}) == []
    first = json.loads(lines(run)[0])
    assert first["previous"] == GENESIS and first["line"] == 1 and first["record"] == RECORDS[0]
    body = json.dumps(
        {"line": 1, "previous": "0" * 64, "record": RECORDS[0]}, sort_keys=True, separators=(",", ":")
    ).encode()
    assert first["hash"] == hashlib.sha256(body).hexdigest()
    assert read_head(run) == Head(7, json.loads(lines(run)[-1])["hash"])


@pytest.mark.parametrize("seed", range(3))
def test_a_bit_that_is_flipped_anywhere_is_named_with_its_line(run, seed):
    """A tenth of all bits of the file, and all of the head."""
    chosen = random.Random(seed)
    path = run / EVIDENCE_FILE
    whole = path.read_bytes()
    for place in chosen.sample(range(len(whole)), len(whole) // 10):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chosen.randrange(8)
        path.write_bytes(damaged)
        line = whole[:place].count(b"\n") + 1
        assert line in named(run), (place, whole[place], damaged[place])
    path.write_bytes(whole)
    assert named(run) == set()


def test_a_bit_that_is_flipped_in_the_head_is_named(run):
    whole = (run / HEAD_FILE).read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            (run / HEAD_FILE).write_bytes(damaged)
            assert check_evidence(run, {}), (place, bit)
    (run / HEAD_FILE).unlink()
    assert named(run) == {0}


@given(st.integers(0, 6), st.sampled_from(["drop", "twice", "swap", "blank", "cut"]))
def test_lines_that_are_missing_repeated_or_moved_are_named(tmp_path_factory, number, how):
    run = tmp_path_factory.mktemp("run")
    log = EvidenceLog(run, head=Head(), step=0, is_writing=True)
    log.append(1, RECORDS)
    log.close()
    found = lines(run)
    line = found[number]
    other = (number + 1) % 7
    if how == "drop":
        del found[number]
    elif how == "twice":
        found.insert(number, line)
    elif how == "swap":
        found[number], found[other] = found[other], line
    elif how == "blank":
        found.insert(number, b"\n")
    else:
        found = [*found[:number], line[:-1]]
    (run / EVIDENCE_FILE).write_bytes(b"".join(found))
    expected = {
        "drop": number + 1,
        "twice": number + 2,
        "swap": min(number, other) + 1,
        "blank": number + 1,
        "cut": number + 1,
    }
    assert expected[how] in named(run)


def test_a_lost_tail_is_named_with_the_lines_that_are_missing(run):
    (run / EVIDENCE_FILE).write_bytes(b"".join(lines(run)[:4]))
    (fault,) = check_evidence(run, {})
    assert str(fault) == "line 5: lines 5 to 7 are missing at the end: the head counts 7"


def test_a_line_that_was_written_anew_with_its_own_hash_is_told_by_the_next(run):
    found = lines(run)
    body = json.loads(found[2])
    head = Head(2, body["previous"])
    found[2] = extend(head, {**body["record"], "score": 1.0})[1]
    (run / EVIDENCE_FILE).write_bytes(b"".join(found))
    (fault,) = check_evidence(run, {})
    assert fault.line == 4 and "does not follow the line before" in fault.what


def test_a_chain_that_was_forged_with_its_head_is_told_by_a_checkpoint(run):
    """Whoever rewrites the file and the head beside it does not have the checkpoint."""
    known = read_head(run)
    forged = EvidenceLog(run, head=Head(), step=0, is_writing=True)
    forged.append(1, [{**RECORDS[0], "score": 1.0}, *RECORDS[1:]])
    forged.close()
    assert check_evidence(run, {}) == []
    (fault,) = check_evidence(run, {"the checkpoint of step 2": known})
    assert fault.line == 7 and "the checkpoint of step 2" in fault.what


def test_lines_behind_the_head_are_named(run):
    head, line = extend(read_head(run), {"n": 8})
    with (run / EVIDENCE_FILE).open("ab") as file:
        file.write(line)
    (fault,) = check_evidence(run, {})
    assert fault.line == 8 and "behind the head" in fault.what


def test_one_value_has_one_spelling(run):
    """A blank, a key in another place, an escape that was not needed: nobody would see it, the check does."""
    found = lines(run)
    found[1] = found[1].replace(b'"n":1', b'"n": 1')
    found[3] = json.dumps(json.loads(found[3])).encode() + b"\n"
    found[5] = found[5].replace(b"none", b"n\\u006fne")
    (run / EVIDENCE_FILE).write_bytes(b"".join(found))
    faults = check_evidence(run, {})
    assert [fault.line for fault in faults] == [2, 4, 6]
    assert all("though not what they say" in fault.what for fault in faults)


def test_a_run_that_goes_on_keeps_the_tail_behind_its_checkpoint_and_writes_the_same_bytes(run, tmp_path):
    whole = lines(run)
    head = Head(3, json.loads(whole[2])["hash"])
    for again in ("", "-2"):
        log = EvidenceLog(run, head=head, step=1, is_writing=True)
        assert lines(run) == whole[:3] and read_head(run) == head
        assert (run / f"evidence.orphan-1{again}.jsonl").read_bytes() == b"".join(whole[3:])
        log.append(2, RECORDS[3:])
        log.close()
        assert lines(run) == whole and check_evidence(run, {}) == []


def test_a_run_that_begins_anew_keeps_what_an_earlier_start_wrote(run):
    whole = lines(run)
    EvidenceLog(run, head=Head(), step=0, is_writing=True).close()
    assert lines(run) == [] and read_head(run) == Head()
    assert (run / "evidence.orphan-0.jsonl").read_bytes() == b"".join(whole)


def test_a_torn_line_goes_with_the_tail(run):
    whole = lines(run)
    with (run / EVIDENCE_FILE).open("ab") as file:
        file.write(b'{"hash":"00')
    head = Head(7, json.loads(whole[6])["hash"])
    EvidenceLog(run, head=head, step=2, is_writing=True).close()
    assert lines(run) == whole and (run / "evidence.orphan-2.jsonl").read_bytes() == b'{"hash":"00'


@pytest.mark.parametrize(
    "damage, told",
    [(lambda found: found[:2], "it has 2 lines"), (lambda found: found[1:], "line 3 has another hash")],
)
def test_a_run_does_not_go_on_behind_another_end_than_its_checkpoint_knows(run, damage, told):
    whole = lines(run)
    head = Head(3, json.loads(whole[2])["hash"])
    (run / EVIDENCE_FILE).write_bytes(b"".join(damage(whole)))
    with pytest.raises(ConfigError, match=f"checkpoint of step 1 .* {told}.*evidence.every=0"):
        EvidenceLog(run, head=head, step=1, is_writing=True)
    (run / EVIDENCE_FILE).unlink()
    with pytest.raises(ConfigError, match="it is not there"):
        EvidenceLog(run, head=head, step=1, is_writing=True)


def test_a_process_that_does_not_write_comes_to_the_same_head(run, tmp_path_factory):
    log = EvidenceLog(tmp_path_factory.mktemp("other"), head=Head(), step=0, is_writing=False)
    log.append(1, RECORDS)
    assert log.head == read_head(run)


def test_a_full_disk_stops_the_run_with_a_line(run, monkeypatch):
    log = EvidenceLog(run, head=read_head(run), step=2, is_writing=True)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reflex_jax.evidence.log.os.replace", full)
    with pytest.raises(RunStopped, match="the evidence of step 3 could not be written .*No space left"):
        log.append(3, RECORDS[:1])
    log.close()


@pytest.mark.parametrize("facts", [{"count": 1}, {"count": -1, "hash": GENESIS}, {"count": 1, "hash": "xyz"}, [], 3])
def test_facts_that_hold_no_head_are_refused(facts, tmp_path):
    with pytest.raises(ConfigError, match="no head of the evidence"):
        head_of({"evidence": facts}, tmp_path)
    assert head_of({}, tmp_path) == Head()


def test_numbers_that_json_does_not_have_are_refused_when_written():
    with pytest.raises(ValueError):
        canonical({"score": float("nan")})


def test_a_file_that_is_not_there_has_no_faults_but_those_of_its_head(tmp_path):
    assert find_faults(tmp_path / EVIDENCE_FILE, Head(), {}) == []
    (fault,) = find_faults(tmp_path / EVIDENCE_FILE, Head(2, "1" * 64), {})
    assert fault.line == 1 and "lines 1 to 2 are missing" in fault.what
