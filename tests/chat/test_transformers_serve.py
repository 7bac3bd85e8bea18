"""A server that is not ours: `transformers serve` with a tiny random model, which replies, if nothing of sense."""

import socket
import subprocess
import sys
import time
from contextlib import closing

import pytest

from reflex_jax.chat.check import look_at_endpoint
from reflex_jax.chat.client import ChatClient
from reflex_jax.checkpoints.paths import resolve_checkpoint
from reflex_jax.config import ConfigError, EndpointConfig
from reflex_jax.rewards.answered import Answered, Failed
from reflex_jax.rewards.components import REWARDS

# conftest names the operators that a CUDA-linked torchvision wheel lacks beside a CPU torch
PROGRAM = "import sys, tests.conftest\nfrom transformers.cli.transformers import main\nsys.exit(main())"
START_SECONDS = 120


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    folder = str(tmp_path_factory.mktemp("model") / "tiny")
    tokenizer = AutoTokenizer.from_pretrained(resolve_checkpoint("phantom", "policy"))
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def endpoint(model, repository, tmp_path_factory):
    pytest.importorskip("uvicorn", reason="transformers serve needs pip install 'transformers[serving]'")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "serve"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "serve", model, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            cwd=repository, stdout=output, stderr=output,
        )  # fmt: skip
    settings = EndpointConfig(url=f"http://127.0.0.1:{port}/v1", model=model, max_tokens=4, attempts=2)
    until = time.monotonic() + START_SECONDS
    try:
        while True:
            try:
                look_at_endpoint(settings)
                break
            except ConfigError as error:
                assert server.poll() is None and time.monotonic() < until, f"{error}\n{log.read_text()}"
                time.sleep(0.5)
        yield settings
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow  # torch and a server start
def test_a_server_of_transformers_is_understood(endpoint):
    assert "serves" in look_at_endpoint(endpoint)
    with closing(ChatClient(endpoint)) as chat:
        first, second = chat.ask([(("user", "left"),), (("user", "right"),)], accepts=lambda reply: True)
        assert isinstance(first, str) and isinstance(second, str)
        three_turns = (("user", "left"), ("assistant", first), ("user", "again"))
        assert isinstance(chat.ask([three_turns], accepts=lambda reply: True)[0], str)
        row = Answered(question="q", completion="", answer="left", truth="right", answer_type="open")
        (result,) = REWARDS["llm_judge"].score([row], {}, {"chat": chat.ask})
    assert isinstance(result, Failed) and result.error == "GarbledReply"  # random weights give no verdict
