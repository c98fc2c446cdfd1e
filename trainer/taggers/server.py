"""Any vision-language model behind an OpenAI-compatible address: vLLM, llama.cpp, Ollama, LM Studio, ...

So JoyCaption, Qwen-VL and whatever comes next run in their own server. POST {address}/chat/completions with the
picture as a data URL; https://platform.openai.com/docs/api-reference/chat describes the messages.
"""

import base64
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

from trainer.dataset import captions, images
from trainer.dataset.ahead import ahead
from trainer.dataset.names import shown
from trainer.errors import UserError
from trainer.taggers.base import DEFAULTS, Tagger, TagOptions, Tags, as_tags

PROMPT = "Describe this picture in one or two plain sentences for training an image model. Only what is to be seen."
KEY = "LORA_STUDIO_SERVER_KEY"
"""Environment variable with the key, for servers that want one. A name of our own: no other key is ever sent."""
LONGEST_SIDE = 1024  # px; more is scaled down by the models themselves
MOST_BYTES = 1 << 20  # of an answer
RETRIED = frozenset((408, 409, 425, 429, 500, 502, 503, 504))
LONGEST_PAUSE = 60.0  # s, also where the server asks for more


def server(where: str) -> Tagger:
    """A vision-language model on a server: `http://127.0.0.1:8000/v1`, with `#MODEL` behind it where it has several.

    Raises UserError for what is no address; whether the server is there is seen at the first picture.
    """
    address, _, model = where.partition("#")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"'{shown(address)}' is no address: write server:http://127.0.0.1:8000/v1, #MODEL behind it.")
    return Server(address.rstrip("/"), model)


class Server:
    """One address and model; threads may share it."""

    def __init__(self, address: str, model: str = ""):
        self.address = address
        self.model = model
        self.name = model or urlsplit(address).hostname or address
        self._turn = threading.Lock()
        self._next = 0.0  # when the next request may start

    def tag(
        self,
        paths: Sequence[Path],
        options: TagOptions = DEFAULTS,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[Path, Tags]]:
        """See `Tagger.tag`. Raises UserError when the server refuses, or does not answer after all retries."""
        asked = ahead(
            lambda path: (path, self._ask(path, options)),
            paths,
            workers=options.service.parallel,
            depth=options.service.parallel,
        )
        for done, (path, text) in enumerate(asked, start=1):
            yield path, as_tags(text, options)
            if progress:
                progress(done, len(paths))

    def _ask(self, path: Path, options: TagOptions) -> str:
        body = json.dumps(self._message(path, options)).encode()
        service = options.service
        for attempt in range(service.retries + 1):
            self._wait(service.rate)
            try:
                return self._answer(body, service.timeout)
            except _Later as later:
                if attempt == service.retries:
                    raise UserError(
                        f"{shown(self.address)} did not answer for {shown(path.name)} after {attempt + 1} tries "
                        f"({later}): check that the server runs there, or give it more --timeout or --retries."
                    ) from later
                time.sleep(min(LONGEST_PAUSE, later.pause if later.pause is not None else service.pause * 2**attempt))
        raise AssertionError("unreachable")

    def _message(self, path: Path, options: TagOptions) -> dict:
        picture = images.open_rgb(path)
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        file = BytesIO()
        picture.save(file, "JPEG", quality=92)
        url = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
        text = filled(options.prompt or PROMPT, path)
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
        message = {"messages": [{"role": "user", "content": content}], "max_tokens": 300, "temperature": 0}
        return message | ({"model": self.model} if self.model else {})

    def _wait(self, rate: float) -> None:
        """At most `rate` requests start in a second, over all threads."""
        if not rate:
            return
        with self._turn:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + 1 / rate
        time.sleep(start - now)

    def _answer(self, body: bytes, timeout: float) -> str:
        headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {os.environ[KEY]}"
        request = urllib.request.Request(f"{self.address}/chat/completions", body, headers)
        try:
            with _OPENER.open(request, timeout=timeout) as reply:
                return self._text(reply.read(MOST_BYTES))
        except urllib.error.HTTPError as error:
            if error.code in RETRIED:
                raise _Later(f"status {error.code}", _seconds(error.headers.get("Retry-After"))) from error
            said = shown(" ".join(error.read(2000).decode("utf-8", "replace").split()))[:200]
            key = f"; a key goes into the variable {KEY}" if error.code in (401, 403) else ""
            raise UserError(f"{shown(self.address)} refuses with status {error.code} ({said}){key}.") from error
        except (OSError, TimeoutError) as error:  # URLError, refused, reset, timed out
            raise _Later(str(getattr(error, "reason", error)) or type(error).__name__) from error

    def _text(self, content: bytes) -> str:
        try:
            text = json.loads(content)["choices"][0]["message"]["content"]
            if isinstance(text, list):  # some servers answer in parts, as they are asked
                text = " ".join(part["text"] for part in text if part.get("type") == "text")
            return " ".join(text.split())
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{shown(self.address)} answers, but not as an OpenAI-compatible server: give the address that ends in "
                f"/v1."
            ) from error


class _Later(Exception):
    """No answer this time; `pause`: seconds that the server asks for."""

    def __init__(self, what: str, pause: float | None = None):
        super().__init__(what)
        self.pause = pause


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Pictures and key go to the address that was given and nowhere else."""

    def redirect_request(self, *_):
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def filled(template: str, path: Path) -> str:
    """The prompt for one picture: {name} is its file's name, {caption} what its caption file says now."""
    caption = (captions.caption_of(path) or "") if "{caption}" in template else ""
    return template.replace("{name}", path.stem).replace("{caption}", caption)


def _seconds(value: str | None) -> float | None:
    try:
        return max(0.0, float(value)) if value else None
    except ValueError:
        return None  # a date: our own pause does
