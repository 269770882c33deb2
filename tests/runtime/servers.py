"""Starts TVM's own RPC server and tracker on the loopback interface, for as long as a test needs them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on, and that no other of pytest-xdist's workers will choose."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    this = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        # Linux gives odd ports only, or even ones.
        if port // 2 % workers == this:
            return port


@contextmanager
def process(
    command: Sequence[str], port: int, environment: Mapping[str, str] | None = None, seconds: float = 60
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server, wait until it listens, and in the end stop it and all processes that it has started."""
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        _wait_until_listening(server, port, seconds)
        yield server
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


@contextmanager
def rpc_server(*options: str) -> Iterator[int]:
    """Start `python -m tvm.exec.rpc_server` and give its port."""
    port = free_port()
    address = ["--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1)]
    with process([sys.executable, "-m", "tvm.exec.rpc_server", *address, *options], port):
        yield port


@contextmanager
def rpc_tracker() -> Iterator[int]:
    """Start `python -m tvm.exec.rpc_tracker` and give its port."""
    port = free_port()
    address = ["--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1)]
    with process([sys.executable, "-m", "tvm.exec.rpc_tracker", *address], port):
        yield port


@contextmanager
def peer(serve: Callable[[socket.socket], object]) -> Iterator[int]:
    """Listen on a port, which the block gets; do something with each connection, and close it."""

    def handle(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            serve(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield int(listener.getsockname()[1])


def received(connection: socket.socket, count: int) -> bytes:
    """Return the next bytes of a connection, as many as asked for."""
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise OSError("the connection was closed")
        data += more
    return data


def _wait_until_listening(server: subprocess.Popen[bytes], port: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            output = server.stdout.read().decode() if server.stdout else ""
            raise RuntimeError(f"The server ended with {server.returncode}:\n{output}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(f"Nothing listens on port {port} after {seconds} seconds")
