"""The probe in the image, run against small servers."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from app.settings import Settings
from tests.docker.engine import ROOT, free_port

PROBE = ROOT / "docker" / "healthcheck.py"


@contextmanager
def answering(status: int, host: str = "127.0.0.1") -> Iterator[int]:
    """A server that answers `/readyz` alone; yields its port."""

    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(b"said")

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    with Server((host, 0), Ready) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def probe(**settings: str | int) -> tuple[int, str]:
    """Exit status, and what was printed."""
    variables = {f"MUTUALFORMER_{name.upper()}": str(value) for name, value in settings.items()}
    done = subprocess.run([sys.executable, PROBE], env=variables, capture_output=True, text=True)
    assert not done.stderr
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize(
    ("listens", "setting"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2"),
        ("127.0.0.1", "0.0.0.0"),
        ("127.0.0.1", "localhost"),
        ("127.0.0.1", ""),
    ],
)
def test_it_finds_the_service_at_the_host_and_port_of_its_settings(
    listens: str, setting: str
) -> None:
    with answering(200, listens) as port:
        assert probe(host=setting, port=port) == (0, "200 said")


@pytest.mark.parametrize("setting", ["::", "::1"])
def test_it_finds_the_service_at_an_ipv6_address(setting: str) -> None:
    try:
        with answering(200, "::1") as port:
            assert probe(host=setting, port=port) == (0, "200 said")
    except OSError:
        pytest.skip("no IPv6 here")


def test_a_service_that_takes_no_work_is_unhealthy_and_says_why() -> None:
    with answering(503) as port:
        assert probe(port=port) == (1, "503 said")


@pytest.mark.parametrize("port", [free_port(), "none"])
def test_no_service_and_no_address_are_unhealthy_without_a_traceback(port: int | str) -> None:
    code, said = probe(port=port)

    assert code == 1
    assert said.startswith("no answer: ")


def test_without_settings_it_asks_where_the_service_listens_by_default() -> None:
    script = "import healthcheck; print(*healthcheck.address())"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROBE.parent, env={}, capture_output=True, text=True
    )

    fields = Settings.model_fields
    assert done.stdout.split() == [fields["host"].default, str(fields["port"].default)]
