"""A web server on this machine that serves byte ranges, counts what it sends, and fails as it is told to."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any


class Web:
    """Serves the files of a folder.

    The first part of a URL says how: ``ok``; ``busy2``, where the first two requests are answered with 503;
    ``cut``, where every answer stops in the middle; ``cut1``, the first one alone; ``whole``, without ranges;
    ``refused`` (403), ``silent``, and ``list``, a page with the names of the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sent: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.url = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        kind, _, name = request.path.strip("/").partition("/")
        self.requests[request.path] += 1
        file = self.folder / name
        mode, times = re.fullmatch(r"([a-z]+)(\d*)", kind).groups()
        acts = not times or self.requests[request.path] <= int(times)
        if mode == "silent":
            time.sleep(1.0)
        if mode == "list" and (not name or file.is_dir()):
            page = "".join(f'<a href="{p.name}">{p.name}</a>' for p in file.iterdir()).encode()
            self._send(request, 200, page, {"Content-Type": "text/html"})
        elif mode == "busy" and acts:
            self._send(request, 503, b"")
        elif mode == "refused":
            self._send(request, 403, b"")
        elif not file.is_file():
            self._send(request, 404, b"")
        else:
            data = file.read_bytes()
            span = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
            if span is None or mode == "whole":
                status, part, headers = 200, data, {}
            else:
                start, end = int(span[1]), int(span[2] or len(data) - 1) + 1
                status, part = 206, data[start:end]
                headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
                if not part:
                    status, headers = 416, {}
            headers |= {"ETag": f'"{hash(data):x}"', "Accept-Ranges": "bytes"}
            stop = len(part) // 2 if mode == "cut" and acts else len(part)
            self._send(request, status, part, headers, stop)

    def _send(
        self,
        request: Any,
        status: int,
        data: bytes,
        headers: dict[str, str] | None = None,
        stop: int | None = None,
    ) -> None:
        request.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(data[:stop])
            self.sent[request.path] += len(data[:stop])
        request.close_connection = stop is not None and stop < len(data)


@contextmanager
def serving(folder: Path) -> Iterator[Web]:
    """Serve a folder while the block runs."""
    web = Web(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            web.answer(self)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:  # a client that has gone away
            pass

    server = Server(("127.0.0.1", 0), Handler)
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
