"""A judge behind HTTP, a real process, in every mood it may have: a reply or a failure, in bounded time, never a guess."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest

from reflex_jax.chat.check import check_endpoint, look_at_endpoint
from reflex_jax.chat.client import ChatClient
from reflex_jax.config import ConfigError, EndpointConfig
from reflex_jax.rewards.answered import Failed
from reflex_jax.text.quoting import quote_texts
from tests.chat_process import end, judge, start_judge

QUICK = {"backoff_seconds": 0.02, "connect_seconds": 2.0, "read_seconds": 1.0, "deadline_seconds": 20.0}


@pytest.fixture(scope="module")
def port():
    with judge() as port:
        yield port


def client(port: int, model: str = "judge", **settings) -> ChatClient:
    return ChatClient(EndpointConfig(url=f"http://127.0.0.1:{port}/v1", model=model, **(QUICK | settings)))


def question(correct: str, given: str) -> tuple:
    return (("user", quote_texts([("correct", correct), ("given", given)], 200)[0]),)


RIGHT, WRONG = question("Left lung", "left lung"), question("Left lung", "right lung")


def is_word(reply: str) -> bool:
    return reply in ("YES", "NO")


def ask(port: int, model: str = "judge", questions=(RIGHT, WRONG), again=None, **settings) -> list:
    with closing(client(port, model, **settings)) as chat:
        return chat.ask(list(questions), accepts=is_word, again=again)


def kinds(replies) -> list:
    return [reply.error if isinstance(reply, Failed) else reply for reply in replies]


def test_replies_come_in_the_order_of_the_questions(port):
    many = [question(str(n), str(n if n % 3 else n + 1)) for n in range(40)]
    assert ask(port, questions=many) == ["YES" if n % 3 else "NO" for n in range(40)]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("503-twice", ["YES", "NO"]),
        ("always-503", ["ServerFault"] * 2),
        ("html", ["NotAChatReply"] * 2),
        ("text", ["NotAChatReply"] * 2),
        ("not-json", ["NotAChatReply"] * 2),
        ("no-choices", ["NotAChatReply"] * 2),
        ("half-closed", ["ConnectionBroken"] * 2),
        ("endless", ["NotAChatReply"] * 2),
        ("unauthorised", ["RequestRefused"] * 2),
        ("redirect", ["RequestRefused"] * 2),
        ("chatty", ["GarbledReply"] * 2),
        ("null", ["GarbledReply"] * 2),
    ],
)
def test_each_mood_of_a_judge_ends_as_its_reply_or_as_its_failure(port, model, expected, capfd):
    assert kinds(ask(port, model, attempts=3)) == expected
    told = capfd.readouterr().err
    assert told.count("\n") == 2 and f"{sum(kind not in ('YES', 'NO') for kind in expected)} of 2" in told


def test_retry_after_is_waited_for_and_no_wait_beyond_the_deadline_is_begun(port):
    started = time.monotonic()
    assert ask(port, "429-once", [question("a", "a")]) == ["YES"]  # its backoff alone would be at most 0.02 s
    assert 1.0 <= time.monotonic() - started < 5
    started = time.monotonic()
    (failed,) = ask(port, "429-for-long", [RIGHT])
    assert time.monotonic() - started < 2 and failed.error == "TooManyRequests" and "asks to wait" in failed.message


@pytest.mark.parametrize(("model", "kind"), [("hang", "OutOfTime"), ("drip", "OutOfTime")])
def test_the_deadline_ends_what_hangs_and_what_drips(port, model, kind):
    """A drip never runs into the timeout between two bytes."""
    started = time.monotonic()
    replies = ask(port, model, [RIGHT, WRONG], deadline_seconds=0.4, read_seconds=30.0)
    assert kinds(replies) == [kind] * 2 and time.monotonic() - started < 3


def test_a_silence_between_bytes_ends_a_try(port):
    (failed,) = ask(port, "hang", [RIGHT], read_seconds=0.2, attempts=2)
    assert failed.error == "TimedOut" and "0.2 s" in failed.message


def test_nobody_at_the_port_is_a_failure_of_every_row():
    with judge() as port:
        pass
    replies = ask(port, attempts=2)
    assert kinds(replies) == ["Unreachable"] * 2


def test_a_garbled_reply_is_asked_about_once_more_in_the_same_conversation(port):
    assert ask(port, "chatty-once") and kinds(ask(port, "chatty-once")) == ["GarbledReply"] * 2
    assert ask(port, "chatty-once", again="One word.") == ["YES", "NO"]


def test_no_more_requests_are_under_way_than_allowed(tmp_path):
    """A judge that hangs is asked by so many rows only, before the deadline."""
    log = tmp_path / "log"
    with judge(0, "--log", str(log)) as port:
        ask(
            port,
            "hang",
            [question(str(n), "x") for n in range(12)],
            concurrency=3,
            deadline_seconds=0.4,
            read_seconds=9,
        )
        assert len(log.read_text().splitlines()) == 3


def test_equal_questions_are_asked_once(tmp_path):
    log = tmp_path / "log"
    with judge(0, "--log", str(log)) as port, closing(client(port)) as chat:
        assert chat.ask([RIGHT, WRONG, RIGHT, RIGHT], accepts=is_word) == ["YES", "NO", "YES", "YES"]
        counts = chat.take_counts()
    assert len(log.read_text().splitlines()) == 2
    assert (counts.asked, counts.cached, counts.failed) == (2, 2, 0)


def test_what_is_sent_is_what_the_settings_say(tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", "sk-123")
    log = tmp_path / "log"
    settings = {"temperature": 0.5, "max_tokens": 7, "seed": 3, "enable_thinking": False, "key_variable": "A_KEY"}
    with judge(0, "--log", str(log)) as port:
        assert ask(port, questions=[RIGHT], **settings) == ["YES"]
    sent = json.loads(log.read_text())
    assert sent["headers"]["authorization"] == "bearer sk-123"
    assert sent["body"] == {
        "model": "judge", "temperature": 0.5, "max_tokens": 7, "seed": 3,
        "messages": [{"role": "user", "content": RIGHT[0][1]}], "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip


# --- killed, restarted, left alone


def test_a_judge_that_dies_in_the_middle_of_a_batch_and_comes_back_costs_nothing_but_time(tmp_path, capfd):
    questions = [question(str(n), str(n)) for n in range(30)]
    process, port = start_judge(0, "--exit-after", "12")
    restarted = []

    def restart():
        process.wait()
        time.sleep(0.3)
        restarted.append(start_judge(port)[0])

    watcher = threading.Thread(target=restart)
    watcher.start()
    try:
        replies = ask(port, questions=questions, concurrency=4, backoff_seconds=0.2, attempts=8)
    finally:
        watcher.join()
        end(process)
        end(restarted[0])
    assert replies == ["YES"] * 30
    told = capfd.readouterr().err
    assert "0 of 30 questions have no reply" in told and "tries were repeated" in told and "Unreachable" in told


def test_a_judge_that_dies_and_stays_away_fails_the_rest_and_scores_none_of_it(capfd):
    with judge(0, "--exit-after", "12") as port:
        replies = kinds(ask(port, questions=[question(str(n), str(n)) for n in range(30)], concurrency=4, attempts=2))
    assert 8 <= replies.count("YES") <= 11 and replies.count("YES") + replies.count("Unreachable") + replies.count(
        "ConnectionBroken") == 30  # fmt: skip


def test_after_rows_failed_in_a_row_nobody_asks_until_the_cool_down_is_over_and_then_one_does(tmp_path):
    process, port = start_judge()
    end(process)
    questions = [question(str(n), str(n)) for n in range(20)]
    settings = {"attempts": 1, "concurrency": 1, "breaker_failures": 3, "breaker_seconds": 0.6}
    with closing(client(port, **settings)) as chat:
        assert kinds(chat.ask(questions, accepts=is_word)) == ["Unreachable"] * 3 + ["CircuitOpen"] * 17
        assert set(kinds(chat.ask(questions, accepts=is_word))) == {"CircuitOpen"}
        log = tmp_path / "log"
        process, _ = start_judge(port, "--log", str(log))
        try:
            assert set(kinds(chat.ask(questions, accepts=is_word))) == {"CircuitOpen"} and not log.exists()
            time.sleep(0.6)
            assert chat.ask(questions, accepts=is_word) == ["YES"] * 20
        finally:
            end(process)


def test_while_one_row_looks_whether_a_judge_is_back_the_others_wait(port):
    """Else all but one of a batch would fail at a judge that is well."""
    with closing(client(port, breaker_failures=1, breaker_seconds=0.2, attempts=1, concurrency=8)) as chat:
        chat._breaker.note(is_answered=False)
        time.sleep(0.3)
        assert chat.ask([question(str(n), str(n)) for n in range(16)], accepts=is_word) == ["YES"] * 16


# --- the key


def test_a_key_is_in_no_message_and_in_no_cache(port, tmp_path, monkeypatch, capfd):
    """Also where the endpoint repeats it."""
    monkeypatch.setenv("A_KEY", "sk-very-secret")
    cache = tmp_path / "replies.sqlite"
    failed = []
    for model in ("unauthorised", "always-503"):
        failed += ask(port, model, [RIGHT], key_variable="A_KEY", cache=str(cache), attempts=2)
    assert all("[key]" in reply.message for reply in failed), failed
    ask(port, "judge", [RIGHT], key_variable="A_KEY", cache=str(cache))
    texts = "".join(str(reply) for reply in failed) + "".join(capfd.readouterr())
    assert "very-secret" not in texts
    assert all(b"very-secret" not in path.read_bytes() for path in tmp_path.iterdir())


def test_a_key_that_is_not_there_or_is_none_is_refused_without_showing_it(monkeypatch):
    monkeypatch.delenv("A_KEY", raising=False)
    with pytest.raises(ConfigError, match="'A_KEY' is not set"):
        client(1, key_variable="A_KEY")
    monkeypatch.setenv("A_KEY", "Bearer sk-1\nsk-2")
    with pytest.raises(ConfigError) as error:
        client(1, key_variable="A_KEY")
    assert "sk-" not in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ConfigError) as error:
        EndpointConfig(key_variable="sk-very-secret")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://h/v1", "http://me:secret@h/v1", "http://h/v1?key=secret", "http://h /v1", "http://",
            "http://h/v1/chat/completions"],
)  # fmt: skip
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url):
    with pytest.raises(ConfigError, match=r"endpoint\.url: expected") as error:
        EndpointConfig(url=url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("concurrency", 0), ("attempts", 0), ("max_tokens", 0), ("breaker_failures", 0), ("deadline_seconds", 0.0),
     ("read_seconds", -1.0), ("backoff_seconds", float("inf")), ("temperature", 2.5), ("connect_seconds", float("nan"))],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=rf"^endpoint\.{name}: expected "):
        EndpointConfig(**{name: value})


@pytest.mark.parametrize(
    "url", ["http://h", "https://h.example.org/v1/", "http://[::1]:80/v1", "http://10.0.0.1:8085/v1"]
)
def test_usual_addresses_are_taken(url):
    assert EndpointConfig(url=url).url == url


# --- certificates


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key", "-out", folder / "it"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


def test_a_certificate_of_nobody_known_is_refused_and_not_tried_again(certificate, capfd):
    arguments = ("--certificate", str(certificate / "it"), "--key", str(certificate / "key"))
    with judge(0, *arguments) as port:
        with closing(ChatClient(EndpointConfig(url=f"https://localhost:{port}", model="judge", **QUICK))) as chat:
            replies = chat.ask([RIGHT], accepts=is_word)
    assert kinds(replies) == ["CertificateRefused"], replies
    assert "repeated" not in capfd.readouterr().err


def test_a_certificate_that_is_known_is_taken_for_its_own_name_alone(certificate):
    """In a process of its own: which authorities are known is read once."""
    program = (
        "import sys; from contextlib import closing; from reflex_jax.chat.client import ChatClient\n"
        "from reflex_jax.config import EndpointConfig\n"
        "for host in ('localhost', '127.0.0.1'):\n"
        "    config = EndpointConfig(url=f'https://{host}:{sys.argv[1]}', model='judge')\n"
        "    with closing(ChatClient(config)) as chat:\n"
        "        print(chat.ask([(('user', 'hello'),)], accepts=lambda reply: True))\n"
    )
    arguments = ("--certificate", str(certificate / "it"), "--key", str(certificate / "key"))
    with judge(0, *arguments) as port:
        ended = subprocess.run(
            [sys.executable, "-c", program, str(port)], capture_output=True, text=True, check=True,
            env={**os.environ, "SSL_CERT_FILE": str(certificate / "it")},
        )  # fmt: skip
    own, other = ended.stdout.splitlines()
    assert own == "['NO']" and "CertificateRefused" in other


# --- before the first step


def test_the_look_before_a_run_names_what_is_wrong_in_one_line(port, tmp_path):
    url = f"http://127.0.0.1:{port}"
    found = look_at_endpoint(EndpointConfig(url=f"{url}/v1", model="judge", cache=str(tmp_path / "r.sqlite")))
    assert "serves judge" in found and "0 replies, 0.0 MB" in found
    assert "does not list" in look_at_endpoint(EndpointConfig(url=f"{url}/silent", model="anything"))
    with pytest.raises(ConfigError, match="does not serve 'jugde'.*Did you mean 'judge'") as error:
        look_at_endpoint(EndpointConfig(url=f"{url}/v1", model="jugde"))
    assert "\n" not in str(error.value)
    assert look_at_endpoint(EndpointConfig(url=f"{url}/v1", model="jugde", check=False)) == ""
    with judge() as other:
        pass
    with pytest.raises(ConfigError, match=r"does not answer: Unreachable .*Start it.*endpoint\.check=false"):
        look_at_endpoint(EndpointConfig(url=f"http://127.0.0.1:{other}/v1", model="judge", **QUICK))
    with pytest.raises(ConfigError, match=r"endpoint\.url and endpoint\.model: expected"):
        look_at_endpoint(EndpointConfig())


def test_a_judge_that_hangs_at_the_start_is_not_waited_for_for_ever():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        config = EndpointConfig(url=f"http://127.0.0.1:{silent.getsockname()[1]}", model="judge", deadline_seconds=0.5)
        with pytest.raises(ConfigError, match="TimedOut"), closing(ChatClient(config)) as chat:
            check_endpoint(chat, config)
        assert time.monotonic() - started < 3


# --- the cache


def test_what_was_asked_once_is_not_asked_again_by_any_process_or_endpoint(port, tmp_path):
    cache = str(tmp_path / "folder" / "replies.sqlite")
    assert ask(port, cache=cache) == ["YES", "NO"]
    process, nobody = start_judge()
    end(process)
    with closing(client(nobody, cache=cache)) as chat:
        assert chat.ask([RIGHT, WRONG], accepts=is_word) == ["YES", "NO"]
        assert (chat.take_counts().cached, chat.cache.size()[0]) == (2, 2)
    for other in ({"temperature": 1.0}, {"max_tokens": 3}, {"seed": 1}, {"enable_thinking": True}):
        assert kinds(ask(nobody, cache=cache, attempts=1, **other)) == ["Unreachable"] * 2, other
    assert kinds(ask(nobody, "judge-json", cache=cache, attempts=1)) == ["Unreachable"] * 2


def test_a_reply_that_is_no_verdict_is_not_kept(port, tmp_path):
    cache = str(tmp_path / "replies.sqlite")
    ask(port, "chatty", cache=cache)
    with closing(sqlite3.connect(cache)) as kept:
        assert kept.execute("SELECT count(*) FROM replies").fetchone() == (0,)


_KILLED = """
import os, sys
from pathlib import Path
from reflex_jax.chat.reply_cache import ReplyCache, reply_key
cache = ReplyCache(Path(sys.argv[1]))
for n in range(10**6):
    cache.keep(reply_key(sys.argv[2], n), "YES")
    print(n, flush=True)
"""


def test_processes_share_a_cache_and_one_that_is_killed_leaves_it_whole(tmp_path):
    from reflex_jax.chat.reply_cache import ReplyCache, reply_key

    path = tmp_path / "replies.sqlite"
    writers = [
        subprocess.Popen([sys.executable, "-c", _KILLED, path, name], stdout=subprocess.PIPE, text=True)
        for name in ("a", "b")
    ]
    kept = {}
    for name, writer in zip("ab", writers, strict=True):
        while int(writer.stdout.readline()) < 50:
            pass
        writer.kill()
        kept[name] = int(re.findall(r"\d+(?=\n)", "50\n" + writer.stdout.read())[-1])
        writer.wait()
        writer.stdout.close()
    with closing(ReplyCache(path)) as cache:
        for name, last in kept.items():
            keys = [reply_key(name, n) for n in range(last + 1)]
            assert cache.find(keys) == dict.fromkeys(keys, "YES")


@pytest.mark.parametrize("content", [b"this is no database " * 40, "other"])
def test_a_file_that_is_something_else_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "mine"
    if content == "other":
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("CREATE TABLE mine (x)")
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"endpoint\.cache: .* is no file of replies"):
        client(1, cache=str(path))
    assert path.read_bytes() == before


def test_a_cache_that_breaks_is_told_once_and_the_run_goes_on(port, tmp_path, capfd):
    with closing(client(port, cache=str(tmp_path / "replies.sqlite"))) as chat:
        chat.cache._connection.execute("DROP TABLE replies")
        assert chat.ask([RIGHT, WRONG], accepts=is_word) == ["YES", "NO"]
        assert chat.ask([RIGHT, WRONG], accepts=is_word) == ["YES", "NO"]
    assert capfd.readouterr().err.count("cannot be used any more") == 1


def test_a_client_works_where_an_event_loop_is_running(port):
    """As in a notebook."""
    import asyncio

    async def cell():
        return ask(port)

    assert asyncio.run(cell()) == ["YES", "NO"]
