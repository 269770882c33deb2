"""Runs a library on another device through TVM's RPC. The device runs `python -m tvm.exec.rpc_server`.

RPC has no encryption and no passwords, and anyone who reaches a server can run code on it: use it in trusted networks
only. This module only connects to servers and trackers; it never listens itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import math
import os
import re
import socket
import struct
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from pipeline.errors import ArtifactError, DeviceError, OptionError
from pipeline.library.metadata import ArtifactMetadata, read_metadata
from pipeline.runtime.library_runner import LibraryRunner
from pipeline.runtime.tensors import Array, Tensor, prepare_feeds
from pipeline.runtime.trace import TIMER_FUNCTION, TimerValues, Trace, measure_alternately, new_timer_values
from pipeline.runtime.worker import Worker

T = TypeVar("T")

_ADDRESS = re.compile(
    r"(?:\[(?P<ipv6>[0-9a-fA-F:.]+(?:%[^\]\s]+)?)\]|(?P<host>[^\[\]:/\s]+))"  # in brackets if it contains colons
    r":(?P<port>[0-9]{1,5})"
    r"(?:/(?P<key>\S+))?"
)


@dataclass(frozen=True)
class Address:
    """Address of a server or tracker.

    Attributes:
        host: name, IPv4 address, or IPv6 address without brackets.
        port: TCP port.
        key: name under which servers have registered; may be empty for a server that isn't reached through a tracker.
    """

    host: str
    port: int
    key: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the parts of "HOST:PORT" or "HOST:PORT/KEY"; an IPv6 host stands in brackets.

        Raises:
            OptionError: the text has another form, or the port isn't in 1..65535.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None or not 1 <= int(match["port"]) <= 65535:
            raise OptionError(
                f"{text!r} isn't an address: expected HOST:PORT or HOST:PORT/KEY, such as 192.168.1.20:9090/phone or "
                "[fd00::20]:9090, with a port from 1 to 65535."
            )
        return cls(match["ipv6"] or match["host"], int(match["port"]), match["key"] or "")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" + (f"/{self.key}" if self.key else "")


class RemoteRunner(LibraryRunner):
    """A library that is loaded on a device; it is used like `Runner`. Close it, or use it in a `with` statement.

    RPC can't tell which features the device's CPU has. A library that the CPU can't run ends the session, and the error
    says which features the library needs.

    Args:
        path: the library. It is uploaded into the server's working directory.
        rpc: address of a server: "HOST:PORT" or "HOST:PORT/KEY". Give this or `tracker`.
        tracker: address of a tracker and key of the devices, one of which is used: "HOST:PORT/KEY".
        num_threads: how many threads one run may use; None means the device's default. A device with fewer cores uses
            fewer threads.
        timeout: how many seconds connecting, and then each call, may take.

    Attributes:
        metadata: what the library says about itself.
        num_threads: how many threads one run may use.

    Raises:
        ArtifactError: the file isn't a library of this pipeline, or is damaged.
        OptionError: an address is wrong, not exactly one of them is given, or `num_threads` is below 1.
        DeviceError: the server or tracker can't be reached, or refuses, or can't load the library.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        rpc: str | None = None,
        tracker: str | None = None,
        num_threads: int | None = None,
        timeout: float = 60.0,
    ) -> None:
        path = self._path = Path(path)
        self.metadata: ArtifactMetadata = read_metadata(path)
        self.address = _address(rpc, tracker)
        if num_threads is not None and num_threads < 1:
            raise OptionError(f"num_threads is {num_threads}; it must be at least 1.")
        self._timeout = timeout
        self._session: Any = None
        self._device: Any = None
        self._library: Any = None
        self._libraries: dict[str, Any] = {}
        self._machine: Any = None
        self._through_tracker = tracker is not None
        self._has_run = False
        _check_reachable(self.address, "tracker" if self._through_tracker else "server", timeout)
        others = set(_connections(self.address))
        self._worker = Worker(f"session with {self.address}")
        _OPEN.add(self)
        try:
            self._session = self._call("connecting", self._connect)
            self._call("loading the library", lambda: self._load(path, num_threads))
        except BaseException:
            self.close()
            # If an answer came to TVM's client while the interpreter ends, that would abort the process. For answers of
            # trackers, it waits in Python, which the interpreter can end.
            if not self._through_tracker and not self._worker.has_ended(_CLOSING_SECONDS):
                for connection in set(_connections(self.address)) - others:
                    connection.end()
                self._worker.has_ended(_ENDING_SECONDS)
            raise

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Array]:
        """Run the library on the device and return the outputs by name; see `LibraryRunner`.

        Raises:
            SampleError: an input is missing, unknown, or of the wrong shape or dtype.
            DeviceError: the session failed or took too long.
        """
        arrays = prepare_feeds(feeds, self.inputs)

        def run() -> dict[str, Array]:
            self._set_inputs(self._machine, arrays)
            with _reading_answers():
                self._machine.invoke_stateful("main")
            self._has_run = True
            return self._outputs()

        return self._call("running the model", run)

    def benchmark(self, feeds: Mapping[str, Tensor], repeats: int = 30, warmup: int = 3) -> list[float]:
        """Return the time of each of `repeats` runs in seconds, measured on the device, so without transfers.

        Before these, there are `warmup` runs that aren't counted.

        Raises:
            SampleError: an input is missing, unknown, or of the wrong shape or dtype.
            DeviceError: the session failed or took too long.
        """
        arrays = prepare_feeds(feeds, self.inputs)

        def measure() -> list[float]:
            self._set_inputs(self._machine, arrays)
            return self._seconds(self._machine, "invoke_stateful", warmup + repeats, "main")[warmup:]

        return self._call("benchmarking", measure)

    def trace(self, feeds: Mapping[str, Tensor], repeats: int = 30) -> Trace:
        """Return how long kernels and whole runs take, measured on the device; see `Runner.trace`.

        Raises:
            ArtifactError: the library can't time its kernels, as an older pipeline built it.
            SampleError: an input is missing, unknown, or of the wrong shape or dtype.
            DeviceError: the session failed or took too long.
        """
        arrays = prepare_feeds(feeds, self.inputs)
        kernels = [o.kernel for o in self.metadata.operators]

        def prepare() -> tuple[Any, Any, Any]:
            from tvm import relax, runtime

            self._set_inputs(self._machine, arrays)
            with _reading_answers():
                if not self._library.implements_function(TIMER_FUNCTION, query_imports=True):
                    raise ArtifactError(f"{self._path} can't time its kernels. Build it again.")
                timed = relax.VirtualMachine(self._library, self._device)
                start_timer = self._library.get_function(TIMER_FUNCTION, query_imports=True)
            self._set_inputs(timed, arrays)
            return timed, start_timer, runtime.tensor(new_timer_values(len(kernels)), self._device)

        def run() -> float:
            return self._seconds(self._machine, "invoke_stateful", 1, "main")[0]

        def times() -> TimerValues:
            timed, start_timer, values = prepared
            with _reading_answers():
                start_timer(timed.module, values)
                timed.invoke_stateful("main")
                return np.asarray(values.numpy())

        prepared = self._call("preparing to trace", prepare)
        return measure_alternately(
            lambda: self._call("running the model", run), lambda: self._call("tracing", times), kernels, repeats
        )

    def time_function(
        self, library: Path, name: str, buffers: Sequence[Array], numbers: Sequence[tuple[int, ...]], repeats: int
    ) -> list[list[float]]:
        """Time a function of any TVM library on the device; see `LibraryRunner`."""

        def measure() -> list[list[float]]:
            import tvm

            tensors = [tvm.runtime.tensor(buffer, self._device) for buffer in buffers]
            module = self._upload(library)
            return [self._seconds(module, name, repeats, *tensors, *values) for values in numbers]

        return self._call("measuring the device", measure)

    def close(self) -> None:
        """End the session."""

        def release() -> None:
            # TVM closes the connection when the last reference to the session is gone.
            self._machine = self._library = self._device = self._session = None
            self._libraries.clear()

        self._worker.post(release)
        self._worker.close()

    def __enter__(self) -> RemoteRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self) -> Any:
        from tvm import rpc

        host, port, key = self.address.host, self.address.port, self.address.key
        with _reading_answers():
            if self._through_tracker:
                # TVM tries again if the tracker offers a device whose server has been restarted since it registered.
                return rpc.connect_tracker(host, port).request(key)
            return rpc.connect(host, port, key=key)

    def _load(self, path: Path, num_threads: int | None) -> None:
        from tvm import relax

        with _reading_answers():
            self._device = self._session.cpu(0)
            if num_threads is not None:
                self._session.get_function("runtime.config_threadpool")(1, num_threads)
            self.num_threads = int(self._session.get_function("runtime.NumThreads")())
        self._library = self._upload(path)
        with _reading_answers():
            self._machine = relax.VirtualMachine(self._library, self._device)

    def _upload(self, path: Path) -> Any:
        """Upload a library, unless that was done before, and return it as a module of the device."""
        # A server may keep its folder, and libraries that it has loaded, after a session, so different libraries must
        # have different names.
        name = f"{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.so"
        # A file must not be overwritten while it is loaded.
        if name not in self._libraries:
            with _reading_answers():
                self._session.upload(str(path), target=name)
                self._libraries[name] = self._session.load_module(name)
        return self._libraries[name]

    def _set_inputs(self, machine: Any, arrays: list[Array]) -> None:
        import tvm

        tensors = [tvm.runtime.tensor(a, self._device) for a in arrays]
        with _reading_answers():
            machine.set_input("main", *tensors)

    def _outputs(self) -> dict[str, Array]:
        from tvm import runtime

        # VirtualMachine.get_outputs does this too, but leaves a reference cycle that keeps the session open.
        with _reading_answers():
            get_output, get_arity = (self._machine.module[name] for name in ("get_output", "get_output_arity"))
            arity = get_arity("main")
        if arity != (-1 if len(self.outputs) == 1 else len(self.outputs)):
            raise _AnswerError(f"it has other outputs than the {len(self.outputs)} that its metadata lists.")
        with _reading_answers():
            values = [get_output("main", *(() if arity == -1 else (i,))) for i in range(len(self.outputs))]
        for spec, value in zip(self.outputs, values, strict=True):
            # Checked before the output is copied, as a wrong size could need any amount of memory.
            if not isinstance(value, runtime.Tensor) or (value.shape, value.dtype) != (spec.shape, spec.dtype):
                raise _AnswerError(f"output {spec.name!r} isn't {spec.dtype} of the shape {list(spec.shape)}.")
        with _reading_answers():
            return {o.name: np.asarray(v.numpy()) for o, v in zip(self.outputs, values, strict=True)}

    def _seconds(self, module: Any, name: str, repeats: int, *arguments: Any) -> list[float]:
        """Return how long each call of a function takes on the device."""
        with _reading_answers():
            evaluator = module.time_evaluator(name, self._device, number=1, repeat=repeats)
            seconds = [float(value) for value in evaluator(*arguments).results]
        if len(seconds) != repeats or not all(math.isfinite(value) and value > 0 for value in seconds):
            raise _AnswerError("it didn't measure a time for each call.")
        return seconds

    def _call(self, doing: str, function: Callable[[], T]) -> T:
        if not self._worker.is_in_this_process:
            raise DeviceError(
                f"{self.address}: the session belongs to the process that opened it, not to those forked from that. "
                "Open a RemoteRunner in each process."
            )
        try:
            return self._worker.call(function, self._timeout)
        # TVM raises a RuntimeError if the session ends or the device reports an error. Any other exception of the
        # function is a bug of this package.
        except (TimeoutError, RuntimeError, OSError) as error:
            # Local variables in the frames of the failed call refer to the session. They would keep it open, and the
            # server busy, as long as the exception exists.
            traceback.clear_frames(error.__traceback__)
            raise self._as_device_error(doing, error) from error

    def _as_device_error(self, doing: str, error: Exception) -> DeviceError:
        if isinstance(error, TimeoutError):
            return DeviceError(
                f"{self.address}: {doing} took more than {self._timeout:g} seconds. The device may be busy "
                "with another session; wait for it, restart its server, or allow more time."
            )
        return DeviceError(f"{self.address}: {doing} failed: {_last_line(error)} {self._advice()}")

    def _advice(self) -> str:
        if self._session is None:
            return "Check the key, and what the server printed."
        if self._has_run:
            return "Check what the server printed, and open the session again."
        target = self.metadata.target
        features = ", ".join(target.required_features)
        return (
            f"The library needs a CPU of {target.architecture} with {features or 'no special features'}; without it "
            "the session ends like this. Check that, and what the server printed."
        )


_ENDED = "code == RPCCode::kReturn"
"""What TVM's client expects of an answer; it says that this is false if there is none, as the connection is closed."""

_CLOSING_SECONDS, _ENDING_SECONDS = 0.1, 5.0
"""How long a thread may take to close a session by itself; and once its connection has been ended."""

_OPEN: weakref.WeakSet[RemoteRunner] = weakref.WeakSet()


def _keep_inherited_sessions() -> None:
    """Keep references to sessions that a forked process has from its parent: TVM would end them with the last one."""
    for runner in _OPEN:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(vars(runner)))


os.register_at_fork(after_in_child=_keep_inherited_sessions)


class _AnswerError(RuntimeError):
    """A server or tracker has sent an answer that it shouldn't."""


@contextlib.contextmanager
def _reading_answers() -> Iterator[None]:
    """Turn exceptions of TVM's client about unexpected answers into `_AnswerError`. The block must only call TVM."""
    try:
        yield
    # TVM's client raises an AttributeError for a function that the server doesn't have.
    except (ValueError, TypeError, LookupError, struct.error, AttributeError) as error:
        raise _AnswerError(f"TVM's client can't read an answer: {_last_line(error)}") from error


def _address(rpc: str | None, tracker: str | None) -> Address:
    if (rpc is None) == (tracker is None):
        raise OptionError("Give the address of an RPC server or that of a tracker.")
    if rpc is not None:
        return Address.parse(rpc)
    address = Address.parse(str(tracker))
    if not address.key:
        raise OptionError(f"The tracker's address {tracker!r} needs the devices' key: HOST:PORT/KEY.")
    return address


def _check_reachable(address: Address, role: str, timeout: float) -> None:
    """Open a connection and close it again, as TVM's own connecting has no timeout and doesn't say what is wrong.

    Raises:
        DeviceError: no connection is possible.
    """
    try:
        socket.create_connection((address.host, address.port), timeout).close()
    except OSError as error:
        raise DeviceError(
            f"No RPC {role} can be reached at {address}: {error.strerror or error}. Check that it runs, and its port: "
            f"python -m tvm.exec.rpc_{role} --host HOST --port {address.port}"
        ) from error


@dataclass(frozen=True)
class _Connection:
    """A TCP connection of this process.

    Attributes:
        descriptor: its file descriptor.
        name: what the system calls it, as descriptors are used again.
    """

    descriptor: int
    name: str

    def end(self) -> None:
        """Let whatever waits for data see the end of the connection. Its descriptor stays open."""
        # OSError: it has been closed meanwhile.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self.descriptor)) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)


def _connections(address: Address) -> Iterator[_Connection]:
    """Yield all connections of this process to an address, those of TVM's client included, which doesn't tell them."""
    peers = {found[4][:2] for found in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)}
    # Without /proc, as in some containers, a session works all the same.
    descriptors = Path("/proc/self/fd")
    for entry in descriptors.iterdir() if descriptors.exists() else ():
        # OSError: it has been closed meanwhile, or isn't connected.
        with contextlib.suppress(OSError):
            kind = str(entry.readlink())
            if not kind.startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as duplicate:
                if duplicate.family in (socket.AF_INET, socket.AF_INET6) and duplicate.getpeername()[:2] in peers:
                    yield _Connection(int(entry.name), kind)


def _last_line(error: BaseException) -> str:
    """Return the last line of an error message of TVM, which says what happened, as a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    if _ENDED in text:
        return "The server has ended the session, or the connection is lost."
    return text if text.endswith(".") else f"{text}."
