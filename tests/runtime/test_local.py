"""Running a library on this machine."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from onnx import helper

import pipeline
from pipeline import cpu
from pipeline.compiler.build import compile_program
from pipeline.compiler.lower import lower, machine_of
from pipeline.compiler.records import is_kernel
from pipeline.errors import ArtifactError, OptionError, SampleError, TargetError
from pipeline.library.metadata import with_checksum
from pipeline.reference import execute
from pipeline.runtime.local import Runner
from pipeline.runtime.tensors import aligned
from pipeline.targets import Target, load_target
from tests.runtime.conftest import LibraryFor
from tests.runtime.emulation import REPOSITORY
from tests.runtime.metadata import with_metadata
from tests.runtime.models import SHAPE, large_program, large_sample, quantized_model, sample


@pytest.fixture(scope="module")
def runner(library: Path) -> Runner:
    return Runner(library)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_library_computes_what_the_reference_does(runner: Runner, seed: int) -> None:
    outputs, expected = runner.run(sample(seed)), execute(quantized_model().program, sample(seed))
    assert list(outputs) == ["logits", "probability"]
    np.testing.assert_array_equal(outputs["logits"], expected["logits"])
    np.testing.assert_allclose(outputs["probability"], expected["probability"], rtol=1e-5)


def shared_operators(target: Target) -> dict[str, bool]:
    """Return for each operator of the large program whether threads share all that compute it."""
    modules: dict[str, tvm.IRModule] = {}
    lower(large_program().module, target.tvm_target(), machine_of(target), None, modules.__setitem__)
    shared: dict[str, bool] = {}
    for function in modules["select_kernels"].functions.values():
        if is_kernel(function):
            operator = str(function.attrs["pipeline.operator"])
            shared[operator] = shared.get(operator, True) and "T.parallel(" in function.script()
    return shared


@pytest.fixture(scope="module")
def large_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whose layers are shared by threads."""
    return compile_program(large_program(), load_target("host"), tmp_path_factory.mktemp("large") / "large.so")


def test_threads_do_not_change_the_bytes(large_library: Path) -> None:
    target = load_target("host")
    shared = shared_operators(target)
    # The image is small, and quantized by the calling thread.
    assert [operator for operator, together in shared.items() if not together] == ["qnn.quantize_image"]
    assert {"qnn.conv2d", "qnn.conv2d_add", "qnn.dense", "qnn.matmul", "nn.max_pool2d"} < shared.keys()
    expected = execute(large_program(), large_sample(1))
    for count in range(1, len(os.sched_getaffinity(0)) + 1):
        np.testing.assert_array_equal(Runner(large_library, count).run(large_sample(1))["scores"], expected["scores"])


def test_a_runner_uses_the_threads_that_it_is_given(library: Path) -> None:
    import tvm_ffi

    available = len(os.sched_getaffinity(0))
    for count in {1, available}:
        runner = Runner(library, num_threads=count)
        assert runner._loaded.worker.call(tvm_ffi.get_global_func("runtime.NumThreads")) == count


def test_the_callers_thread_stays_on_its_cpus(library: Path) -> None:
    before = os.sched_getaffinity(0)
    Runner(library, num_threads=1).run(sample(0))
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("count", [0, -1, 100_000])
def test_a_thread_count_that_cannot_be_had_is_refused(library: Path, count: int) -> None:
    with pytest.raises(OptionError, match=f"num_threads is {count}"):
        Runner(library, num_threads=count)


def test_calls_from_many_threads_do_not_mix(runner: Runner) -> None:
    seeds = list(range(8))
    expected = [runner.run(sample(seed))["logits"] for seed in seeds]
    with ThreadPoolExecutor(4) as pool:
        for got, wanted in zip(
            pool.map(lambda s: runner.run(sample(s))["logits"], seeds * 5), expected * 5, strict=True
        ):
            np.testing.assert_array_equal(got, wanted)


def test_outputs_belong_to_the_caller(runner: Runner) -> None:
    first = runner.run(sample(0))["logits"]
    kept = first.copy()
    runner.run(sample(1))
    np.testing.assert_array_equal(first, kept)
    first += 1
    np.testing.assert_array_equal(runner.run(sample(0))["logits"], kept)


@pytest.fixture(scope="module")
def identity_runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Of a model whose output is its input."""
    folder = tmp_path_factory.mktemp("identity")
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3, 4])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 3, 4])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), folder / "m.onnx")
    program = pipeline.load(folder / "m.onnx")
    return Runner(pipeline.compile_program(program, pipeline.load_target("host"), folder / "m.so"))


def test_neither_an_input_buffer_nor_an_output_is_copied(identity_runner: Runner) -> None:
    buffers = identity_runner.input_buffers()
    buffers["x"][...] = np.arange(24).reshape(2, 3, 4)
    output = identity_runner.run(buffers, copy=False)["y"]
    assert output.ctypes.data == buffers["x"].ctypes.data
    np.testing.assert_array_equal(output, buffers["x"])
    assert not np.shares_memory(identity_runner.run(buffers)["y"], buffers["x"])


def test_an_array_that_is_used_again_is_read_again(runner: Runner) -> None:
    buffers = runner.input_buffers()
    for seed in (0, 1):
        for name, value in sample(seed).items():
            buffers[name][...] = value
        outputs, expected = runner.run(buffers), runner.run(sample(seed))
        np.testing.assert_array_equal(outputs["logits"], expected["logits"])


def test_an_array_that_was_given_another_shape_is_refused(runner: Runner) -> None:
    buffers = runner.input_buffers()
    runner.run(buffers)
    (array,) = buffers.values()
    array.shape = (array.size,)
    with pytest.raises(SampleError, match="expected"):
        runner.run(buffers)


def test_an_output_that_is_not_copied_is_read_only(runner: Runner) -> None:
    output = runner.run(sample(0), copy=False)["logits"]
    with pytest.raises(ValueError, match="read-only"):
        output[...] = 0
    assert runner.run(sample(0))["logits"].flags.writeable


def test_later_runs_leave_outputs_alone_that_are_not_copied(runner: Runner) -> None:
    expected = [runner.run(sample(seed)) for seed in range(4)]
    kept = [runner.run(sample(seed), copy=False) for seed in range(4)]
    for got, wanted in zip(kept, expected, strict=True):
        for name in wanted:
            np.testing.assert_array_equal(got[name], wanted[name])


def test_outputs_that_are_not_copied_outlive_their_runner(library: Path) -> None:
    runner = Runner(library)
    expected, kept = runner.run(sample(0)), runner.run(sample(0), copy=False)
    del runner
    gc.collect()
    for name in expected:
        np.testing.assert_array_equal(kept[name], expected[name])


@dataclass(frozen=True)
class Exported:
    """A tensor of another library, which only has the DLPack protocol."""

    array: np.ndarray
    device: tuple[int, int] = (1, 0)

    def __dlpack__(self, **options: Any) -> Any:
        if self.device != (1, 0):
            raise BufferError("the tensor isn't in the CPU's memory")
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


def test_tensors_of_other_libraries_are_used_where_they_are(identity_runner: Runner) -> None:
    array = aligned(np.arange(24, dtype="float32").reshape(2, 3, 4))
    output = identity_runner.run({"x": Exported(array)}, copy=False)["y"]
    assert output.ctypes.data == array.ctypes.data


def test_tensors_in_another_devices_memory_are_refused(identity_runner: Runner) -> None:
    tensor = Exported(np.zeros((2, 3, 4), "float32"), device=(2, 0))
    with pytest.raises(SampleError, match=r"'x' can't be read.*memory of this machine"):
        identity_runner.run({"x": tensor})


def layouts(value: np.ndarray) -> dict[str, np.ndarray]:
    unaligned = np.empty(value.nbytes + 4, "uint8")[4:].view("float32").reshape(value.shape)
    unaligned[...] = value
    read_only = value.copy()
    read_only.flags.writeable = False
    strided = np.repeat(value, 2, axis=3)[..., ::2]
    return {"unaligned": unaligned, "read-only": read_only, "strided": strided, "reordered": np.asfortranarray(value)}


@pytest.mark.parametrize("layout", ["unaligned", "read-only", "strided", "reordered"])
def test_inputs_may_lie_anywhere_in_memory(runner: Runner, layout: str) -> None:
    value = sample(0)["x"]
    outputs = runner.run({"x": layouts(value)[layout]})
    np.testing.assert_array_equal(outputs["logits"], runner.run({"x": value})["logits"])


def test_wrong_inputs_are_refused_with_what_is_expected(runner: Runner) -> None:
    x = sample(0)["x"]
    with pytest.raises(SampleError, match=r"missing: x; unknown: y.*Expected 'x' \[1, 3, 12, 12\] float32"):
        runner.run({"y": x})
    with pytest.raises(SampleError, match=r"unknown: y"):
        runner.run({"x": x, "y": x})
    with pytest.raises(SampleError, match=r"shape \[1, 3, 12, 11\].*expected \[1, 3, 12, 12\]"):
        runner.run({"x": np.zeros((*SHAPE[:3], 11), "float32")})
    with pytest.raises(SampleError, match=r"dtype complex64; expected .* float32"):
        runner.run({"x": x.astype("complex64")})
    with pytest.raises(SampleError, match=r"Input 'x' holds 1e\+300, which is too large for float32"):
        runner.run({"x": np.full(SHAPE, 1e300)})


def test_inputs_are_converted_where_nothing_is_lost_and_taken_without_the_batch_axis(runner: Runner) -> None:
    x = np.arange(np.prod(SHAPE), dtype="int16").reshape(SHAPE)
    expected = runner.run({"x": x.astype("float32")})["logits"]
    for value in (x, x.astype("float64"), x[0], x[0].astype(">f4")):
        np.testing.assert_array_equal(runner.run({"x": value})["logits"], expected)


def test_a_benchmark_gives_one_time_per_run(runner: Runner) -> None:
    seconds = runner.benchmark(sample(0), repeats=5, warmup=2)
    assert len(seconds) == 5
    assert min(seconds) > 0


def test_a_cpu_without_the_features_is_refused_before_loading(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "cpu_features", lambda: frozenset({"sse4_2"}))
    with pytest.raises(TargetError, match=r"this machine lacks .*popcnt.*--target host"):
        Runner(library)


def test_a_library_for_another_architecture_is_refused(library_for: LibraryFor) -> None:
    other = "android-arm64" if cpu.architecture() == "x86_64" else "x86-64-v2"
    with pytest.raises(TargetError, match=f"was built for {other} and can't run here"):
        Runner(library_for(other))


def test_a_library_without_a_program_is_refused(library: Path, tmp_path: Path) -> None:
    path = tmp_path / "empty.so"
    content = library.read_bytes().replace(b"__tvm_ffi__library_bin", b"__tvm_ffi__library_bam")
    path.write_bytes(with_checksum(content))
    with pytest.raises(ArtifactError, match=r"empty.so can't be loaded"):
        Runner(path)


@dataclass(frozen=True)
class Untrue:
    """A change of metadata, after which it describes another program, and the error of a run."""

    name: str
    change: Callable[[dict[str, Any]], Any]
    message: str


MORE = {"name": "y", "shape": [1, 10], "dtype": "float32"}

UNTRUE = [
    Untrue("too few outputs", lambda m: m["outputs"].pop(), "has 2 outputs, its metadata lists 1"),
    Untrue("too many outputs", lambda m: m["outputs"].append(MORE), "has 2 outputs, its metadata lists 3"),
    Untrue(
        "output's shape", lambda m: m["outputs"][0].update(shape=[10]), r"'logits' has the shape \[1, 10\] and dtype"
    ),
    Untrue(
        "output's dtype", lambda m: m["outputs"][0].update(dtype="int32"), r"float32, its metadata says .* and int32"
    ),
    Untrue("too many inputs", lambda m: m["inputs"].append(MORE), r"can't be run as its metadata says: .*1 arguments"),
    Untrue("input's size", lambda m: m["inputs"][0].update(shape=[1, 3, 12, 13]), r"can't be run .*\(13 vs\. 12\)"),
    Untrue("input's rank", lambda m: m["inputs"][0].update(shape=[1]), r"can't be run .*expect Tensor with ndim 4"),
    Untrue(
        "input's dtype", lambda m: m["inputs"][0].update(dtype="uint8"), r"can't be run .*dtype float32 but get uint8"
    ),
]


@pytest.mark.parametrize("case", UNTRUE, ids=lambda case: case.name)
def test_a_library_whose_metadata_describes_another_program_is_refused(
    library: Path, tmp_path: Path, case: Untrue
) -> None:
    runner = Runner(with_metadata(library, tmp_path / "untrue.so", case.change))
    with pytest.raises(ArtifactError, match=rf"untrue\.so.*{case.message}.*Build it again\."):
        runner.run(runner.input_buffers())


def test_a_library_that_was_built_anew_is_not_taken_for_the_former_one(library: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.so"
    shutil.copy(library, path)
    former = Runner(path)
    expected = former.run(sample(0))["logits"]
    pipeline.compile_program(quantized_model().source, pipeline.load_target("host"), path)
    in_float = Runner(path).run(sample(0))["logits"]
    np.testing.assert_allclose(in_float, execute(quantized_model().source, sample(0))["logits"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(former.run(sample(0))["logits"], expected)
    assert not np.array_equal(in_float, expected)


OPEN_AND_DROP = """
import os, sys, time
from pipeline.runtime.local import Runner
library, threads = sys.argv[1], int(sys.argv[2])
def threads_and_pages():
    for _ in range(400):
        runner = Runner(library, threads)
        runner.run(runner.input_buffers())
        del runner
    return len(os.listdir("/proc/self/task")), int(open("/proc/self/statm").read().split()[1])
(threads, pages), (threads_later, pages_later) = threads_and_pages(), threads_and_pages()
print(threads_later - threads, (pages_later - pages) * os.sysconf("SC_PAGE_SIZE"))
"""


@pytest.mark.parametrize("count", sorted({1, len(os.sched_getaffinity(0))}))
def test_runners_that_are_opened_and_dropped_leave_no_threads_and_no_memory(library: Path, count: int) -> None:
    command = [sys.executable, "-c", OPEN_AND_DROP, str(library), str(count)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    more_threads, more_bytes = map(int, result.stdout.split())
    assert more_threads == 0
    assert more_bytes < 400 * 10_000


def test_runners_that_are_open_at_a_time_have_threads_of_their_own(library: Path) -> None:
    count = len(os.sched_getaffinity(0))
    runners = [Runner(library, count) for _ in range(3)]
    expected = runners[0].run(sample(0))["logits"]
    assert len({id(runner._loaded.worker) for runner in runners}) == 3
    with ThreadPoolExecutor(3) as pool:
        for outputs in pool.map(lambda runner: runner.run(sample(0)), runners * 5):
            np.testing.assert_array_equal(outputs["logits"], expected)


def test_a_single_thread_may_use_the_cpus_of_who_opens_its_runner(library: Path) -> None:
    allowed = os.sched_getaffinity(0)
    Runner(library, 1).run(sample(0))
    try:
        os.sched_setaffinity(0, {min(allowed)})
        bound = Runner(library, 1)
    finally:
        os.sched_setaffinity(0, allowed)
    assert bound._loaded.worker.call(lambda: os.sched_getaffinity(0)) == {min(allowed)}
    del bound
    assert Runner(library, 1)._loaded.worker.call(lambda: os.sched_getaffinity(0)) == allowed


FORK = """
import os, sys
import numpy as np
from pipeline.runtime.local import Runner
from pipeline.runtime.tensors import random_feeds
def check(runner):
    for _ in range(2):
        for name, value in runner.run(feeds).items():
            np.testing.assert_array_equal(value, expected[name])
library, threads = sys.argv[1], int(sys.argv[2])
runner = Runner(library, threads)
feeds = random_feeds(runner.inputs)
expected = runner.run(feeds)
os.unlink(library)  # what is loaded is there to stay
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        check(runner)
        if os.fork() == 0:
            check(runner)
            sys.exit(5)
        sys.exit(0 if os.waitstatus_to_exitcode(os.wait()[1]) == 5 else 1)
    children.append(child)
check(runner)
assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
"""


@pytest.mark.parametrize("count", sorted({1, len(os.sched_getaffinity(0))}))
def test_processes_that_are_forked_after_a_run_compute_the_same(
    large_library: Path, tmp_path: Path, count: int
) -> None:
    path = tmp_path / "model.so"
    shutil.copy(large_library, path)
    command = [sys.executable, "-c", FORK, str(path), str(count)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr


LOADED = "print(sorted({line.split('/')[-1].strip() for line in open('/proc/self/maps') if 'libtvm' in line}))"
RUN = "from pipeline.runtime.local import Runner; r = Runner({library!r}); r.run({{'x': np.zeros({shape}, 'float32')}})"


def run_python(*statements: str) -> str:
    code = "\n".join(("import numpy as np", *statements))
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_runner_does_not_load_the_compiler(library: Path) -> None:
    output = run_python(RUN.format(library=str(library), shape=SHAPE), LOADED)
    assert "libtvm_runtime.so" in output
    assert "libtvm_compiler" not in output


def test_a_runner_imports_only_what_it_needs(library: Path) -> None:
    slow = {"click", "elftools", "onnx", "pydantic", "rich", "tvm", "tvm_ffi"}
    loaded = f"import sys; print(sorted({slow} & set(sys.modules)))"
    assert run_python(RUN.format(library=str(library), shape=SHAPE), loaded) == "[]\n"


@pytest.mark.parametrize("compiler_first", [True, False], ids=["compiler first", "runner first"])
def test_a_runner_and_the_compiler_share_a_process(library: Path, compiler_first: bool) -> None:
    steps = ["import tvm", RUN.format(library=str(library), shape=SHAPE)]
    again = "import pipeline.api; r.run({'x': np.ones((1, 3, 12, 12), 'float32')}); print(tvm.cpu())"
    run_python(*(steps if compiler_first else reversed(steps)), again)
