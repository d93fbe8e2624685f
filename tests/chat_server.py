"""A chat endpoint on 127.0.0.1 that answers, or misbehaves, as a test plans."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ChatServer(ThreadingHTTPServer):
    """
    Answers with the steps planned for what `key_of` finds in a request, one per request; the last one is repeated. A
    step is a reply (text, or what becomes JSON), an HTTP status, or a function of the handler.
    """

    daemon_threads = True

    def __init__(self, default: Any = "", key_of: Callable[[dict], str] = lambda request: ""):
        super().__init__(("127.0.0.1", 0), Handler)
        self.default, self.key_of = default, key_of
        self.plans: dict[str, list] = {}
        self.requests: list[dict] = []
        self.headers: list[Message] = []
        self.base_url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what many tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(request)
        self.server.headers.append(self.headers)
        plan = self.server.plans.get(self.server.key_of(request), [])
        step = plan.pop(0) if len(plan) > 1 else plan[0] if plan else self.server.default
        if callable(step):
            return step(self)
        if isinstance(step, int):
            return self.answer(step, {"error": {"message": "as planned"}})
        self.reply(step if isinstance(step, str) else json.dumps(step))

    def reply(self, content: str) -> None:
        usage = {"prompt_tokens": 1000, "completion_tokens": 100}
        self.answer(200, {"choices": [{"message": {"role": "assistant", "content": content}}], "usage": usage})

    def answer(self, status: int, record: object, **headers: str) -> None:
        body = json.dumps(record).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def serving(server: ChatServer) -> Iterator[ChatServer]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
