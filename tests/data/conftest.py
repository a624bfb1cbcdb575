"""Fixtures of the data tests: the shared datasets, MovieLens-100K, and a server that misbehaves."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from semid_lib.data import load_dataset
from semid_lib.data.sources import search_path


@pytest.fixture(scope="session")
def shared_data():
    """The folder with the uniform copies of the real datasets."""
    for root in search_path()[:-1]:
        if (root / "beauty" / "interactions.csv.gz").is_file():
            return root.resolve()
    pytest.skip("needs ../shared/data")


@pytest.fixture(scope="session")
def ml100k():
    """MovieLens-100K from the cache, or fetched once."""
    return load_dataset("ml-100k")


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No dataset on this machine and an empty cache, which is returned."""
    monkeypatch.setenv("SEMID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "semid_lib.data.sources.search_path", lambda: [tmp_path / "none", tmp_path / "cache"]
    )
    return tmp_path / "cache"


class Server:
    """A local web server. `files`: path -> bytes; `faults`: what to do to the next requests.

    A fault is an HTTP status to answer with, or ("cut", n): send n bytes of the body and hang up.
    """

    def __init__(self):
        self.files, self.faults, self.requests = {}, [], []
        self.ranges = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, request):
        asked = request.headers.get("Range")
        self.requests.append((request.path, asked))
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, int):
            return request.send_error(fault)
        body = self.files.get(request.path)
        if body is None:
            return request.send_error(404)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.ranges else 0
        if start and start >= len(body):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(body)}")
            request.send_header("Content-Length", "0")
            return request.end_headers()
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        end = len(body) if fault is None else start + fault[1]
        request.wfile.write(body[start:end])


@pytest.fixture
def server():
    """A `Server` of its own for each test."""
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()
