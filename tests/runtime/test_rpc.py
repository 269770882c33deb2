"""Running a library through TVM's own RPC server and tracker, on the loopback interface."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline import cpu
from pipeline.errors import ArtifactError, DeviceError, OptionError, SampleError
from pipeline.profiling import profile
from pipeline.runtime import rpc
from pipeline.runtime.local import Runner
from pipeline.runtime.rpc import Address, RemoteRunner
from tests.runtime.conftest import LibraryFor
from tests.runtime.emulation import REPOSITORY
from tests.runtime.metadata import with_metadata
from tests.runtime.models import sample
from tests.runtime.servers import free_port, peer, received, rpc_server, rpc_tracker


@dataclass(frozen=True)
class Text:
    text: str
    address: Address


@pytest.mark.parametrize(
    "case",
    [
        Text("localhost:9090", Address("localhost", 9090)),
        Text("10.0.0.2:9190/phone", Address("10.0.0.2", 9190, "phone")),
        Text("[::1]:9090", Address("::1", 9090)),
        Text("[fe80::1%eth0]:1/a/b", Address("fe80::1%eth0", 1, "a/b")),
    ],
    ids=lambda case: case.text,
)
def test_an_address_is_host_port_and_key(case: Text) -> None:
    assert Address.parse(case.text) == case.address
    assert str(case.address) == case.text


@pytest.mark.parametrize("text", ["", "host", "host:", ":9090", "host:0", "host:65536", "::1:9090", "host:1 2", "h:1/"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="expected HOST:PORT"):
        Address.parse(text)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with rpc_server() as port:
        yield f"127.0.0.1:{port}"


def test_a_server_computes_the_same_bytes(library: Path, server: str) -> None:
    expected = Runner(library).run(sample(0))
    with RemoteRunner(library, rpc=server, num_threads=1) as remote:
        assert (remote.inputs, remote.outputs) == (remote.metadata.inputs, remote.metadata.outputs)
        for _ in range(2):
            outputs = remote.run(sample(0))
            for name in expected:
                np.testing.assert_array_equal(outputs[name], expected[name])


def test_a_benchmark_is_timed_on_the_server(library: Path, server: str) -> None:
    with RemoteRunner(library, rpc=server) as remote:
        seconds = remote.benchmark(sample(0), repeats=4, warmup=1)
    assert len(seconds) == 4
    assert min(seconds) > 0


def test_kernels_are_timed_on_the_server(library: Path, server: str) -> None:
    with RemoteRunner(library, rpc=server, num_threads=1) as remote:
        expected = remote.run(sample(0))
        trace = remote.trace(sample(1), repeats=2)
        assert [k.kernel for k in trace.kernels] == [o.kernel for o in remote.metadata.operators]
        assert min(seconds for k in trace.kernels for seconds in k.seconds) > 0
        assert len(trace.runs) == len(trace.passes) == 2
        for name, value in remote.run(sample(0)).items():
            np.testing.assert_array_equal(value, expected[name])


def test_a_profile_compares_with_the_servers_limits(library: Path, server: str) -> None:
    result = profile(library, sample(0), threads=1, repeats=1, rpc=server)
    assert result.threads == 1
    assert result.limits is not None
    assert all(o.of_limit is not None and o.of_limit > 0 for o in result.operators)


def test_wrong_inputs_never_reach_the_server(library: Path, server: str) -> None:
    with RemoteRunner(library, rpc=server) as remote, pytest.raises(SampleError, match="missing: x"):
        remote.run({})


def test_a_session_ends_when_it_is_closed(library: Path, server: str) -> None:
    for _ in range(3):
        with RemoteRunner(library, rpc=server, timeout=20) as remote:
            remote.run(sample(0))


def test_a_busy_server_is_given_up_after_the_timeout(library: Path, server: str) -> None:
    with RemoteRunner(library, rpc=server), pytest.raises(DeviceError, match="connecting took more than 1 seconds"):
        RemoteRunner(library, rpc=server, timeout=1)


def test_no_thread_waits_for_a_server_that_was_given_up(library: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = "{}:{}".format(*silent.getsockname())
        with pytest.raises(DeviceError, match="connecting took more than"):
            RemoteRunner(library, rpc=address, timeout=1)
        assert not [thread.name for thread in threading.enumerate() if address in thread.name]


def test_a_server_that_was_given_up_keeps_its_session_with_another_runner(library: Path, server: str) -> None:
    with RemoteRunner(library, rpc=server, timeout=20) as remote:
        with pytest.raises(DeviceError, match="connecting took more than"):
            RemoteRunner(library, rpc=server, timeout=1)
        remote.run(sample(0))


def test_a_wrong_key_is_refused(library: Path, server: str) -> None:
    with pytest.raises(DeviceError, match=r"cannot find server that matches key.*Check the key"):
        RemoteRunner(library, rpc=f"{server}/other", timeout=20)


def test_a_library_that_the_server_cannot_load_is_refused(library_for: LibraryFor, server: str) -> None:
    other = "android-arm64" if cpu.architecture() == "x86_64" else "x86-64-v2"
    with pytest.raises(DeviceError, match=r"loading the library failed:.*needs a CPU of"):
        RemoteRunner(library_for(other), rpc=server, timeout=20)


def test_a_session_that_failed_is_closed_while_its_error_is_kept(
    library: Path, library_for: LibraryFor, server: str
) -> None:
    other = library_for("android-arm64" if cpu.architecture() == "x86_64" else "x86-64-v2")
    gc.disable()
    try:
        with pytest.raises(DeviceError) as kept:
            RemoteRunner(other, rpc=server, timeout=20)
        with RemoteRunner(library, rpc=server, timeout=20), pytest.raises(DeviceError) as kept_too:
            RemoteRunner(library, rpc=server, timeout=1)
        with RemoteRunner(library, rpc=server, timeout=20) as remote:
            remote.run(sample(0))
        assert "loading" in str(kept.value)
        assert "connecting" in str(kept_too.value)
    finally:
        gc.enable()


@pytest.mark.parametrize("role", ["server", "tracker"])
def test_nothing_listening_is_named_with_the_command_to_start_it(library: Path, role: str) -> None:
    address = f"127.0.0.1:{free_port()}/phone"
    with pytest.raises(DeviceError, match=rf"No RPC {role} can be reached at {address}: .*tvm\.exec\.rpc_{role}"):
        RemoteRunner(library, rpc=address if role == "server" else None, tracker=address if role == "tracker" else None)


def test_a_port_of_something_else_is_refused(library: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(DeviceError, match="connecting took more than"),
    ):
        RemoteRunner(library, rpc=f"127.0.0.1:{silent.getsockname()[1]}", timeout=1)


@pytest.mark.parametrize(
    ("runs_before", "advice"), [(0, "The library needs a CPU of"), (1, "Check what the server printed, and open the")]
)
def test_a_server_that_dies_ends_the_session_with_an_error(library: Path, runs_before: int, advice: str) -> None:
    import psutil

    with rpc_server() as port, RemoteRunner(library, rpc=f"127.0.0.1:{port}", timeout=20) as remote:
        for _ in range(runs_before):
            remote.run(sample(0))
        listening = [c.pid for c in psutil.net_connections("tcp4") if c.laddr and c.laddr.port == port and c.pid]
        for pid in set(listening) - {os.getpid()}:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(DeviceError, match=f"running the model failed: .*{advice}"):
            remote.run(sample(0))


def test_a_connection_that_is_closed_instead_of_an_answer_is_said_in_words() -> None:
    error = RuntimeError("rpc_endpoint.cc:408\nCheck failed: (code == RPCCode::kReturn) is false: code=1")
    assert rpc._last_line(error) == "The server has ended the session, or the connection is lost."


def test_a_tracker_finds_the_device(library: Path) -> None:
    expected = Runner(library).run(sample(0))
    with rpc_tracker() as tracker, rpc_server("--tracker", f"127.0.0.1:{tracker}", "--key", "phone"):
        with RemoteRunner(library, tracker=f"127.0.0.1:{tracker}/phone", timeout=30) as remote:
            outputs = remote.run(sample(0))
        for name in expected:
            np.testing.assert_array_equal(outputs[name], expected[name])


def test_a_device_that_no_tracker_has_is_given_up(library: Path) -> None:
    with rpc_tracker() as tracker, pytest.raises(DeviceError, match="connecting took more than 1 seconds"):
        RemoteRunner(library, tracker=f"127.0.0.1:{tracker}/none", timeout=1)


def test_exactly_one_address_is_wanted(library: Path) -> None:
    for addresses in ({}, {"rpc": "a:1", "tracker": "a:1/b"}):
        with pytest.raises(OptionError, match="Give the address of an RPC server or that of a tracker"):
            RemoteRunner(library, **addresses)
    with pytest.raises(OptionError, match="needs the devices' key"):
        RemoteRunner(library, tracker="127.0.0.1:9190")


def test_a_client_needs_no_extra_packages(library: Path, server: str) -> None:
    code = f"""
import sys
for name in ("tornado", "cloudpickle", "psutil"):
    sys.modules[name] = None
import numpy as np
from pipeline.runtime.rpc import RemoteRunner
with RemoteRunner({str(library)!r}, rpc={server!r}) as remote:
    remote.run({{"x": np.zeros((1, 3, 12, 12), "float32")}})
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_damaged_library_is_refused_before_anything_is_sent(library: Path, tmp_path: Path) -> None:
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / "damaged.so"
    path.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match=r"damaged\.so is damaged"):
        RemoteRunner(path, rpc=f"127.0.0.1:{free_port()}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["outputs"].pop(), "it has other outputs than the 1 that its metadata lists"),
        (lambda m: m["outputs"][0].update(shape=[10]), r"output 'logits' isn't float32 of the shape \[10\]"),
        (lambda m: m["outputs"][1].update(dtype="int32"), "output 'probability' isn't int32"),
    ],
    ids=["number", "shape", "dtype"],
)
def test_outputs_that_are_not_those_of_the_metadata_are_refused(
    library: Path, tmp_path: Path, server: str, change: Callable[[dict[str, object]], object], message: str
) -> None:
    path = with_metadata(library, tmp_path / "untrue.so", change)
    with (
        RemoteRunner(path, rpc=server, timeout=20) as remote,
        pytest.raises(DeviceError, match=f"running the model failed: {message}"),
    ):
        remote.run(sample(0))


def test_a_mistake_of_our_own_is_not_taken_for_the_servers(
    library: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistake(*_: object) -> None:
        raise AttributeError("a mistake")

    with RemoteRunner(library, rpc=server, timeout=20) as remote:
        monkeypatch.setattr(remote, "_set_inputs", mistake)
        with pytest.raises(AttributeError, match="a mistake"):
            remote.run(sample(0))


FORK = """
import os, sys
import numpy as np
from pipeline.runtime.rpc import RemoteRunner
from pipeline.errors import DeviceError
library, server = sys.argv[1:]
feeds = {"x": np.zeros((1, 3, 12, 12), "float32")}
remote = RemoteRunner(library, rpc=server, timeout=20)
child = os.fork()
if child == 0:
    try:
        remote.run(feeds)
    except DeviceError as error:
        sys.exit(5 if "belongs to the process that opened it" in str(error) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
remote.run(feeds)
"""


def test_a_session_stays_with_the_process_that_opened_it(library: Path, server: str) -> None:
    command = [sys.executable, "-c", FORK, str(library), server]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr


# Peers that aren't what they seem.

SERVER_MAGIC, TRACKER_MAGIC = 0xFF271, 0x2F271


def length_and(data: bytes) -> bytes:
    return struct.pack("<i", len(data)) + data


def greet(connection: socket.socket, answer: bytes) -> None:
    """Take a client's number and key, and send the answer."""
    received(connection, 4)
    received(connection, struct.unpack("<i", received(connection, 4))[0])
    connection.sendall(answer)


@dataclass(frozen=True)
class Server:
    """What a server does with a connection, and the error that follows."""

    name: str
    serve: Callable[[socket.socket], object]
    message: str


def server_that_answers(answer: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        greet(connection, struct.pack("<i", SERVER_MAGIC) + length_and(b"server"))
        while connection.recv(65536):
            connection.sendall(answer)

    return serve


def packet(code: int, *values: bytes) -> bytes:
    body = struct.pack("<ii", code, len(values)) + b"".join(values)
    return struct.pack("<Q", len(body)) + body


RETURN, EXCEPTION = 4, 5

BAD_SERVERS = [
    Server("closes", lambda connection: connection.recv(1), "connecting (failed|took more than)"),
    Server("speaks HTTP", lambda c: c.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "connecting (failed|took more)"),
    Server("negative length", lambda c: greet(c, struct.pack("<ii", SERVER_MAGIC, -5)), "connecting (failed|took)"),
    Server("ends the session", server_that_answers(packet(1)), "connecting failed"),
    Server("unknown code", server_that_answers(packet(99)), "connecting failed"),
    Server("nothing returned", server_that_answers(packet(RETURN)), "loading the library failed"),
    Server("odd error", server_that_answers(packet(EXCEPTION, struct.pack("<iq", 8, -1))), "connecting failed"),
    Server("huge packet", server_that_answers(struct.pack("<Q", 2**62)), "connecting failed"),
]


@pytest.mark.parametrize("case", BAD_SERVERS, ids=lambda case: case.name)
def test_a_server_that_speaks_something_else_ends_in_an_error(library: Path, case: Server) -> None:
    with peer(case.serve) as port, pytest.raises(DeviceError, match=case.message):
        RemoteRunner(library, rpc=f"127.0.0.1:{port}", timeout=2)


BAD_ANSWERS = {
    "text": b'"x"',
    "number": b"5",
    "nothing in it": b"[]",
    "no list": b"{}",
    "refusal": b'[-1, "no"]',
    "no device": b"[0, null]",
    "two parts": b"[0, [1, 2]]",
    "types": b'[0, [null, "x", 5]]',
    "no host": json.dumps([0, ["nowhere.invalid", 1, "k"]]).encode(),
    "not JSON": b"\xff\xfe",
    "deeply nested": b"[" * 100_000,
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
def test_a_tracker_that_answers_something_else_ends_in_an_error(library: Path, answer: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        received(connection, 4)
        connection.sendall(struct.pack("<i", TRACKER_MAGIC))
        received(connection, struct.unpack("<i", received(connection, 4))[0])
        connection.sendall(length_and(answer))

    with peer(serve) as port, pytest.raises(DeviceError, match="connecting failed"):
        RemoteRunner(library, tracker=f"127.0.0.1:{port}/phone", timeout=30)
