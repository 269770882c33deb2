"""Target files: those that come with the package, a user's own, and the one for this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import cpu
from pipeline.data import data_directory
from pipeline.errors import OptionError, TargetError
from pipeline.kernels.isa import instruction_sets
from pipeline.targets import list_targets, load_target

SHIPPED = [target.name for target in list_targets()]
CONCRETE = [name for name in SHIPPED if name != "host"]

LEVEL_2 = {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}
LEVEL_3 = LEVEL_2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}
LEVEL_4 = LEVEL_3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}


def test_the_package_brings_these_targets() -> None:
    assert set(SHIPPED) >= {
        "host",
        "x86-64-v2",
        "x86-64-v3",
        "x86-64-v3-vnni",
        "x86-64-v4",
        "x86-64-v4-vnni",
        "x86-64-v4-vbmi",
        "x86-64-v4-amx",
        "linux-aarch64",
        "android-arm64",
        "android-arm64-dotprod",
        "android-arm64-i8mm",
    }


@pytest.mark.parametrize(("name", "answer"), [("arm", "android-arm64 for Android"), ("OpenCL", "run on the CPU")])
def test_paddle_lites_targets_are_answered_with_those_here(name: str, answer: str) -> None:
    with pytest.raises(OptionError, match=f"Unknown target '{name}'.*{answer}"):
        load_target(name)


@pytest.mark.parametrize("name", CONCRETE)
def test_a_shipped_target_is_whole(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.description.endswith(".")
    assert target.instruction_set in instruction_sets()
    described = target.tvm_target()
    assert described.attrs["mcpu"] == target.cpu
    assert described.attrs["mtriple"] == target.triple


@pytest.mark.parametrize("name", [name for name in CONCRETE if "arm64" in name or "aarch64" in name])
def test_arm64_libraries_load_with_16_kib_pages(name: str) -> None:
    assert load_target(name).linker.page_size % 16384 == 0


@dataclass(frozen=True)
class Machine:
    architecture: str
    features: set[str]
    target: str


@pytest.mark.parametrize(
    "machine",
    [
        Machine("x86_64", LEVEL_2, "x86-64-v2"),
        Machine("x86_64", LEVEL_3 | {"avx512_vnni"}, "x86-64-v3"),
        Machine("x86_64", LEVEL_3 | {"avx_vnni"}, "x86-64-v3-vnni"),
        Machine("x86_64", LEVEL_4, "x86-64-v4"),
        Machine("x86_64", LEVEL_4 | {"avx512_vnni", "amx_tile"}, "x86-64-v4-vnni"),
        Machine("x86_64", LEVEL_4 | {"avx512_vnni", "avx512vbmi", "amx_tile"}, "x86-64-v4-vbmi"),
        Machine("x86_64", LEVEL_4 | {"avx512_vnni", "avx512vbmi", "amx_tile", "amx_int8"}, "x86-64-v4-amx"),
        Machine("aarch64", {"asimd"}, "linux-aarch64"),
    ],
    ids=lambda machine: machine.target,
)
def test_host_is_the_best_level_that_the_machine_has(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "architecture", lambda: machine.architecture)
    monkeypatch.setattr(cpu, "cpu_features", lambda: frozenset(machine.features))
    assert load_target("host") == load_target(machine.target)


@dataclass(frozen=True)
class Limit:
    instruction_set: str
    architecture: str
    target: str


@pytest.mark.parametrize(
    "limit",
    [
        Limit("amx_int8", "x86_64", "x86-64-v4-amx"),
        Limit("avx512_vbmi", "x86_64", "x86-64-v4-vbmi"),
        Limit("avx512_vnni", "x86_64", "x86-64-v4-vnni"),
        Limit("avx512", "x86_64", "x86-64-v4"),
        Limit("avx_vnni", "x86_64", "x86-64-v3-vnni"),
        Limit("avx2", "x86_64", "x86-64-v3"),
        Limit("sse41", "x86_64", "x86-64-v2"),
        Limit("neon", "aarch64", "linux-aarch64"),
        Limit("avx2", "aarch64", "linux-aarch64"),
        Limit("neon", "x86_64", "x86-64-v4-amx"),
    ],
    ids=lambda limit: f"{limit.instruction_set}-{limit.architecture}",
)
def test_a_limit_hides_what_better_instruction_sets_need(limit: Limit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a machine that has everything; another architecture's instruction set is no limit."""
    everything = frozenset(feature for name in CONCRETE for feature in load_target(name).required_features)
    monkeypatch.setattr(cpu, "architecture", lambda: limit.architecture)
    monkeypatch.setattr(cpu, "_all_features", lambda: everything)
    monkeypatch.setenv(cpu.LIMIT_VARIABLE, limit.instruction_set)
    assert load_target("host").name == limit.target


def test_a_limit_adds_nothing_to_what_the_cpu_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "architecture", lambda: "x86_64")
    monkeypatch.setattr(cpu, "_all_features", lambda: frozenset(LEVEL_3))
    monkeypatch.setenv(cpu.LIMIT_VARIABLE, "avx512_vbmi")
    assert load_target("host").name == "x86-64-v3"


def test_an_unknown_limit_is_refused_with_the_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpu.LIMIT_VARIABLE, "avx3")
    with pytest.raises(OptionError, match=r"PIPELINE_INSTRUCTION_SET_LIMIT: Unknown .*'avx3'\. Known: amx_int8, avx2"):
        load_target("host")


def test_host_of_an_unknown_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "architecture", lambda: "riscv64")
    with pytest.raises(TargetError, match=r"riscv64.*can run none of x86-64-v4-amx"):
        load_target("host")


def test_a_cpu_whose_features_cannot_be_read_is_not_taken_for_one_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cpu, "architecture", lambda: "x86_64")
    monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "cpuinfo")
    with pytest.raises(TargetError, match=r"which features .*\(x86_64\) has.*cpuinfo can't be read: No such file"):
        load_target("host")
    (tmp_path / "cpuinfo").write_text("processor: 0\nmodel name: one\n")
    with pytest.raises(TargetError, match="has no line of flags"):
        cpu.missing_features("x86_64", ("sse4_1",))
    assert cpu.missing_features("x86_64", ()) == ()
    (tmp_path / "cpuinfo").write_text("processor: 0\nflags\t\t: fpu sse4_1\n")
    assert cpu.missing_features("x86_64", ("sse4_1", "avx")) == ("avx",)


def test_another_system_lacks_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu.platform, "system", lambda: "Darwin")
    assert cpu.missing_features(cpu.architecture(), ("sse4_1",)) == ("Linux",)
    with pytest.raises(TargetError, match="on Linux only, and this is Darwin"):
        cpu.cpu_features()


def test_the_test_machine_has_a_host_target() -> None:
    target = load_target("host")
    assert cpu.missing_features(target.architecture, target.required_features) == ()


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"Unknown target 'android-arm'.*Did you mean 'android-arm64'\?"):
        load_target("android-arm")


def shipped_text(name: str) -> str:
    return (data_directory("targets") / f"{name}.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", [str, Path])
def test_a_users_own_file_works_by_its_path(tmp_path: Path, kind: type) -> None:
    path = tmp_path / "phone.toml"
    path.write_text(
        shipped_text("android-arm64").replace('"android-arm64"', '"phone"').replace("cortex-a72", "cortex-a53")
    )
    target = load_target(kind(path))
    assert (target.name, target.cpu) == ("phone", "cortex-a53")


@dataclass(frozen=True)
class Mistake:
    old: str
    new: str
    message: str


@pytest.mark.parametrize(
    "mistake",
    [
        Mistake("triple =", "tripel =", "tripel: Unknown key 'tripel'. Known: cache, "),
        Mistake(
            "l2_bytes",
            "l2_size",
            "cache.l2_size: Unknown key 'l2_size'. Known: l1d_bytes, l2_bytes.",
        ),
        Mistake("page_size = 16384", "page_size = 1000", "linker.page_size: "),
        Mistake("page_size = 16384", 'page_size = "16384"', "linker.page_size: "),
        Mistake('"+neon"', '"neon"', "features[0]: "),
        Mistake('name = "android-arm64"', 'name = "../x"', "name: "),
        Mistake("[linker]", "[linker", "isn't TOML"),
    ],
    ids=lambda mistake: mistake.new,
)
def test_a_wrong_file_is_refused_with_file_and_key(tmp_path: Path, mistake: Mistake) -> None:
    path = tmp_path / "phone.toml"
    text = shipped_text("android-arm64")
    assert mistake.old in text
    path.write_text(text.replace(mistake.old, mistake.new))
    with pytest.raises(TargetError) as caught:
        load_target(path)
    assert str(path) in str(caught.value)
    assert mistake.message in str(caught.value)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="can't be read"):
        load_target(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TargetError, match="isn't UTF-8"):
        load_target(tmp_path / "binary.toml")


def test_a_choice_may_only_name_plain_targets(tmp_path: Path) -> None:
    path = tmp_path / "choice.toml"
    path.write_text('name = "choice"\ndescription = "A choice."\ncandidates = ["host"]\n')
    with pytest.raises(TargetError, match="'host' is itself a choice"):
        load_target(path)


def test_a_cpu_that_llvm_does_not_know_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "phone.toml"
    path.write_text(shipped_text("android-arm64").replace("cortex-a72", "cortex-z99"))
    with pytest.raises(TargetError, match="no CPU 'cortex-z99'"):
        load_target(path).tvm_target()
