"""A vision-language model on a server, played by a real HTTP server on this machine."""

import base64
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pytest
from PIL import Image

from trainer.errors import UserError
from trainer.taggers import Service, TagOptions, get
from trainer.taggers.server import KEY, Server

FAST = Service(timeout=5, retries=2, pause=0.01)


class Model(ThreadingHTTPServer):
    """Answers with what `plan` says next, then with the mean colour of the picture it was sent."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.asked = [], []
        self.address = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, dict(self.headers), body))
        status, headers, content = self.server.plan.pop(0) if self.server.plan else (200, {}, None)
        if status == "hang":
            time.sleep(1.5)
            return
        if content is None:
            picture, text = body["messages"][0]["content"]
            data = base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
            red, green, blue = Image.open(BytesIO(data)).resize((1, 1)).getpixel((0, 0))
            content = answer(f"A plain picture.\n {red > 128} {green > 128} {blue > 128}")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

    def log_message(self, *_):
        pass


def answer(text):
    return {"choices": [{"message": {"content": text}}]}


@pytest.fixture
def model():
    with Model() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for number, colour in enumerate(["red", "lime", "blue", "white"]):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (2000, 50), colour).save(paths[-1])
    return paths


def texts(model, pictures, spec="", service=FAST, **options):
    tagger = get(f"server:{model.address}{spec}")
    answers = tagger.tag(pictures, TagOptions(service=service, **options))
    return [" ".join(tag for tag, _ in tags) for _, tags in answers]


class Clock:
    """Stands still, and remembers who wanted to sleep how long."""

    def __init__(self):
        self.slept = []

    def monotonic(self):
        return 100.0

    def sleep(self, seconds):
        self.slept.append(round(seconds, 6))


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(sys.modules[Server.__module__], "time", clock)  # the package has a function of that name
    return clock


def test_each_picture_is_asked_about_in_order(model, pictures, monkeypatch):
    monkeypatch.setenv(KEY, "secret")
    monkeypatch.setenv("OPENAI_API_KEY", "never sent")
    said = [f"A plain picture. {answer}" for answer in ("True False False", "False True False", "False False True")]
    assert texts(model, pictures[:3], "#joy", prompt="What is {name}? {caption}") == said
    path, headers, body = model.asked[0]
    assert path == "/v1/chat/completions" and body["model"] == "joy" and headers["Authorization"] == "Bearer secret"
    prompts = {asked[2]["messages"][0]["content"][1]["text"] for asked in model.asked}
    assert prompts == {f"What is {number}? " for number in range(3)}


def test_the_caption_that_is_there_can_be_part_of_the_prompt(model, pictures):
    pictures[0].with_suffix(".txt").write_text("moss, hat")
    texts(model, pictures[:1], prompt="Turn into a sentence: {caption}")
    assert model.asked[0][2]["messages"][0]["content"][1]["text"] == "Turn into a sentence: moss, hat"
    assert "model" not in model.asked[0][2]


def test_lists_of_tags_and_parts_are_understood(model, pictures):
    model.plan = [(200, {}, answer("1girl, red hat,smile")), (200, {}, answer([{"type": "text", "text": "a, b"}]))]
    tagger = get(f"server:{model.address}")
    options = TagOptions(service=Service(parallel=1), exclude=("smile",), replace={"red hat": "crown"})
    found = [tags for _, tags in tagger.tag(pictures[:2], options)]
    assert found == [[("1girl", 1.0), ("crown", 1.0)], [("a", 1.0), ("b", 1.0)]]


def test_a_busy_server_is_asked_again(model, pictures, clock):
    model.plan = [(503, {}, b""), (500, {}, b""), (429, {"Retry-After": "7"}, b""), (429, {"Retry-After": "900"}, b"")]
    assert texts(model, pictures[:1], service=Service(retries=4))[0].startswith("A plain picture.")
    assert clock.slept == [1, 2, 7, 60] and len(model.asked) == 5


def test_one_that_stays_busy_hangs_or_is_not_there_is_named(model, pictures):
    model.plan = [(503, {}, b"")] * 3
    with pytest.raises(UserError, match=r"did not answer for 0.png after 3 tries \(status 503\)"):
        texts(model, pictures[:1])
    model.plan = [("hang", {}, b"")]
    with pytest.raises(UserError, match=r"after 1 tries .*timed out"):
        texts(model, pictures[:1], service=Service(timeout=0.2, retries=0))
    model.address = "http://127.0.0.1:9/v1"
    with pytest.raises(UserError, match="127.0.0.1:9/v1 did not answer .*: check that the server runs"):
        texts(model, pictures[:1])


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((400, {}, b'{"error": "no such model"}'), "refuses with status 400 .*no such model"),
        ((401, {}, b""), f"a key goes into the variable {KEY}"),
        ((302, {"Location": "http://127.0.0.1:9/elsewhere"}, b""), "refuses with status 302"),
        ((200, {}, b"<html>"), "not as an OpenAI-compatible server"),
        ((200, {}, {"choices": []}), "not as an OpenAI-compatible server"),
        ((200, {}, b"[" * 5000), "not as an OpenAI-compatible server"),
    ],
)
def test_what_cannot_be_helped_is_said_at_once(model, pictures, reply, said):
    model.plan = [reply]
    with pytest.raises(UserError, match=said):
        texts(model, pictures[:1])
    assert len(model.asked) == 1


def test_the_rate_is_kept(model, pictures, clock):
    texts(model, pictures, service=Service(rate=10, parallel=4))
    assert sorted(clock.slept) == [0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "file:///etc/passwd", "ftp://x/v1", "http://"])
def test_what_is_no_address(address):
    with pytest.raises(UserError, match="is no address"):
        get(f"server:{address}")
