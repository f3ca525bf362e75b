"""Real llama.cpp servers: they start, answer, stream, count, repeat themselves and end."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

pytest.importorskip("gguf", reason="needs the `engines` dependency group: make engines")
pytest.importorskip("xllamacpp", reason="needs the `engines` dependency group: make engines")

from shunter.stack.llamacpp.gguf import FILE_NAME, WORDS, write_model
from shunter.stack.llamacpp.testing import llamacpp_server

pytestmark = pytest.mark.llamacpp
DEADLINE_S = 30


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("llamacpp")


@pytest.fixture(scope="module")
def url(directory):
    with llamacpp_server(directory, model="lab/tiny") as url:
        yield url


def get(url):
    with urlopen(url, timeout=DEADLINE_S) as response:
        return response.read().decode()


def post(url, **body):
    with urlopen(Request(url, json.dumps(body).encode()), timeout=DEADLINE_S) as response:
        return response.read().decode()


def chat(url, prompt, **more):
    return post(f"{url}/v1/chat/completions", messages=[{"role": "user", "content": prompt}], **({"max_tokens": 24} | more))


def whole_text(url, prompt, **more):
    return json.loads(chat(url, prompt, **more))["choices"][0]["message"]["content"]


def streamed_chunks(url, prompt, **more):
    lines = [line for line in chat(url, prompt, stream=True, **more).splitlines() if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def streamed_text(url, prompt, **more):
    choices = [choice for chunk in streamed_chunks(url, prompt, **more) for choice in chunk["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def serve(*options):
    return subprocess.Popen(
        [sys.executable, "-m", "shunter.stack.llamacpp", "--model-name=tiny", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_model_bytes_are_the_same_on_every_write(tmp_path):
    first, second = (write_model(tmp_path / name) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == [FILE_NAME], "nothing partial stays behind"


def test_model_that_is_there_is_not_written_again(tmp_path):
    before = write_model(tmp_path).stat()
    assert write_model(tmp_path).stat() == before


def test_health_and_models(url):
    assert json.loads(get(f"{url}/health")) == {"status": "ok"}
    assert [model["id"] for model in json.loads(get(f"{url}/v1/models"))["data"]] == ["lab/tiny"]


def test_answer_is_words_and_as_long_as_asked(url):
    answer = json.loads(post(f"{url}/v1/completions", prompt="hello wagon", max_tokens=17, temperature=0))
    words = answer["choices"][0]["text"].split()
    assert len(words) == 17
    assert set(words) <= set(WORDS)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 17


def test_answer_without_max_tokens_ends(url):
    assert json.loads(chat(url, "hello", max_tokens=-1))["usage"]["completion_tokens"] == 256


def test_stream_ends_with_usage_when_asked(url):
    chunks = streamed_chunks(url, "hello", max_tokens=5, stream_options={"include_usage": True})
    assert chunks[-1]["usage"]["completion_tokens"] == 5
    assert all("usage" not in chunk for chunk in chunks[:-1])


def test_prompt_too_long_is_refused(url):
    with pytest.raises(HTTPError) as refused:
        post(f"{url}/v1/completions", prompt=" the" * 9000, max_tokens=1)
    with refused.value as response:
        assert response.code == 400
        assert json.load(response)["error"]["type"] == "exceed_context_size_error"


def test_prompt_of_eight_thousand_tokens_is_answered(url):
    answer = json.loads(post(f"{url}/v1/completions", prompt=" the" * 8000, max_tokens=1))
    assert answer["usage"]["prompt_tokens"] == 8000


def test_metrics_have_the_families_a_picker_reads(url):
    samples = dict(line.rsplit(" ", 1) for line in get(f"{url}/metrics").splitlines() if not line.startswith("#"))
    assert {"llamacpp:requests_processing", "llamacpp:requests_deferred"} <= samples.keys()


def test_requests_beyond_the_slots_are_counted_as_deferred(directory):
    with llamacpp_server(directory, slots=1) as url, contextlib.ExitStack() as clients:
        for _ in range(3):
            body = json.dumps({"prompt": "x", "max_tokens": 8000, "temperature": 0, "stream": True})
            client = clients.enter_context(contextlib.closing(HTTPConnection(url.removeprefix("http://"), timeout=DEADLINE_S)))
            client.request("POST", "/v1/completions", body)
        deadline_s = time.monotonic() + DEADLINE_S
        while "llamacpp:requests_deferred 2" not in (page := get(f"{url}/metrics")):
            assert time.monotonic() < deadline_s, page
        assert "llamacpp:requests_processing 1" in page


@pytest.mark.parametrize("fixed", [{"temperature": 0}, {"temperature": 0, "cache_prompt": False}, {"seed": 7}], ids=str)
def test_text_depends_on_the_request_alone(url, fixed):
    """Streamed or whole, cached or not, alone or in a crowd: text that came through a proxy can be compared."""
    prompts = [f"train {n} to the north yard " + "where is the wagon " * n for n in range(12)]
    alone = {prompt: whole_text(url, prompt, **fixed) for prompt in prompts}
    assert len(set(alone.values())) == len(prompts), "the text depends on the prompt"
    with ThreadPoolExecutor(8) as crowd:
        for fetch in (whole_text, streamed_text):
            assert (
                dict(zip(prompts, crowd.map(lambda prompt, fetch=fetch: fetch(url, prompt, **fixed), prompts), strict=True))
                == alone
            )


def test_two_servers_say_the_same(url, directory):
    with llamacpp_server(directory) as other:
        assert whole_text(other, "hello", temperature=0) == whole_text(url, "hello", temperature=0)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_server_even_while_it_streams(directory, end):
    with serve(f"--gguf={write_model(directory)}", "--ctx=32768") as server:
        address = server.stdout.readline().removeprefix("listening on http://").strip()
        body = json.dumps({"prompt": "x", "max_tokens": 30_000, "temperature": 0, "stream": True})
        with contextlib.closing(HTTPConnection(address, timeout=DEADLINE_S)) as client:
            client.request("POST", "/v1/completions", body)
            with client.getresponse() as stream:
                assert stream.readline().startswith(b"data: ")
                os.kill(server.pid, end)
                assert server.wait(DEADLINE_S) == 0
                assert b"[DONE]" not in stream.fp.read(), "the stream was cut, not waited for"


def test_port_taken_is_named(directory):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = serve(f"--gguf={write_model(directory)}", f"--port={port}")
        _, errors = server.communicate(timeout=DEADLINE_S)
    assert server.returncode == 2
    assert f"Error: cannot listen on 127.0.0.1 port {port}: Address already in use" in errors
    assert "Traceback" not in errors


def test_file_that_is_no_model_is_named(tmp_path):
    (tmp_path / "not.gguf").write_bytes(b"GGUF, or so it says")
    server = serve(f"--gguf={tmp_path / 'not.gguf'}")
    _, errors = server.communicate(timeout=DEADLINE_S)
    assert server.returncode == 2
    assert f"Error: llama.cpp cannot load {tmp_path / 'not.gguf'}" in errors
    assert "Traceback" not in errors


def test_missing_wheel_names_the_extra(directory):
    blocked = "import sys; sys.modules['xllamacpp'] = None; from shunter.stack.llamacpp.__main__ import main; main()"
    command = [sys.executable, "-c", blocked, f"--gguf={write_model(directory)}", "--model-name=tiny"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert ended.returncode == 2
    assert "pip install 'shunter-stack[llamacpp]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_failure_shows_the_log(directory):
    with pytest.raises(ZeroDivisionError) as failed, llamacpp_server(directory):
        raise ZeroDivisionError
    assert "initializing" in failed.value.__notes__[0]


def test_server_that_does_not_come_up_shows_the_log(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"GGUF, or so it says")
    with pytest.raises(AssertionError, match="did not come up") as failed, llamacpp_server(tmp_path):
        pass
    assert "cannot load" in failed.value.__notes__[0]
