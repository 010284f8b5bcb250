"""The proxy that stands for distance: nothing lost, and later by what it says whatever the length."""

import http.server
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from pipeline.latency import far_away

BODY = bytes(range(256)) * 20_000  # 5 MB, many chunks


class Echo(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.rfile.read(int(self.headers["Content-Length"])))


@pytest.fixture
def echo():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_requests_cross_it_whole_and_late_at_the_same_time(echo):
    def posted(_):
        began = time.monotonic()
        assert requests.post(url, BODY, timeout=60).content == BODY
        return time.monotonic() - began

    with far_away(echo, 0.3) as url, ThreadPoolExecutor(4) as pool:
        began = time.monotonic()
        assert min(pool.map(posted, range(8))) >= 0.3
        assert time.monotonic() - began < 8 * 0.3 + 20  # far below a delay for each of 8 x 80 chunks


def test_it_ends_with_its_block(echo):
    with far_away(echo, 0.0) as url:
        assert requests.post(url, b"x", timeout=60).content == b"x"
    with pytest.raises(requests.ConnectionError):
        requests.post(url, b"x", timeout=60)
