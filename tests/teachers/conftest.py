"""Endpoints that teachers are tested against: a scripted HTTP server, and a real one with a small model."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from c2s.teachers.cache import Request
from c2s.teachers.client import Teacher
from c2s.teachers.config import TeacherConfig


def _completion(text, finish="stop", usage=(11, 7)):
    """The body of a chat completion."""
    return {
        "id": "1", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)},
    }  # fmt: skip


class Endpoint:
    """A server on this machine whose answers a test decides: `reply(number, body)` gives (code, body, headers)."""

    def __init__(self):
        self.requests, self.headers, self.paths = [], [], []
        self.reply = lambda number, body: (200, _completion(f"answer to {body['seed']}"), {})
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    number = len(outer.requests)
                    outer.requests.append(body)
                    outer.headers.append({k.lower(): v for k, v in self.headers.items()})
                    outer.paths.append(self.path)
                code, content, headers = outer.reply(number, body)
                if code is None:  # hang up without a word
                    self.close_connection = True
                    return
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(code)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                with suppress(ConnectionError):  # whoever asked may have stopped waiting
                    self.wfile.write(data)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self):
        self.now, self.sleeps = 1000.0, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    """Loopback is asked directly, whatever proxy the machine has."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def completion():
    """Return a function that makes the body of a chat completion."""
    return _completion


@pytest.fixture
def endpoint():
    server = Endpoint()
    yield server
    server.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make_teacher(endpoint, clock, tmp_path):
    """Return a function that makes a teacher that asks `endpoint`, one request at a time, by `clock`."""

    def make(*, tokenizer=None, **changes):
        fields = {
            "base_url": endpoint.url,
            "model": "m",
            "concurrency": 1,
            "requests_per_minute": None,
        }
        config = TeacherConfig.parse({**fields, **changes}, "recipe.yaml")
        return Teacher(config, tmp_path, tokenizer=tokenizer, clock=clock, sleep=clock.sleep)

    return make


@pytest.fixture
def question():
    """Return a function that makes a question with a number."""

    def make(number, sample=0):
        return Request(f"study 'S{number}'", (("user", f"question {number}"),), sample)

    return make


# --- transformers serve -----------------------------------------------------------------------

_ABSTRACTS = {
    "Baron": "We profiled over 12,000 pancreatic cells of four donors and found subtypes of beta cells.",
    "Zuo": "A cell atlas of the human retina resolves 110 cell types and states across the lifespan.",
}

_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="session")
def abstracts():
    """Abstracts of two studies."""
    return dict(_ABSTRACTS)


def _save_model(folder):
    """A Llama of random weights that ends its answers, by chance, after some tokens."""
    import torch
    import transformers

    from c2s.tokens.tokenizer import train_text_tokenizer

    tokenizer = train_text_tokenizer(_ABSTRACTS.values(), 300)
    tokenizer.chat_template = _TEMPLATE
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=2048, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config)
    model.generation_config = transformers.GenerationConfig(
        do_sample=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        exponential_decay_length_penalty=(8, 1.5),
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """`transformers serve` with a small model: its address, the model's name and its folder."""
    for package in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(package, reason=f"`transformers serve` needs {package}")
    folder = tmp_path_factory.mktemp("served")
    _save_model(folder / "model")
    port = _free_port()
    command = "from transformers.cli.transformers import main; main()"
    log = folder / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-c", command, "serve", str(folder / "model"), "--host", "127.0.0.1",
             "--port", str(port), "--device", "cpu"],
            stdout=sink, stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        _await(f"http://127.0.0.1:{port}/health", process, log)
        yield SimpleNamespace(
            url=f"http://127.0.0.1:{port}/v1", model=str(folder / "model"), folder=folder / "model"
        )
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(address, process, log):
    """Wait until the server is up, or say why it is not."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(1200):
        assert process.poll() is None, f"the server ended:\n{log.read_text()[-2000:]}"
        try:
            with opener.open(address, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"the server did not come up:\n{log.read_text()[-2000:]}")
