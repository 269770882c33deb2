"""Architecture, features and cores of this machine's CPU. Features have the names that they have in /proc/cpuinfo."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
from pathlib import Path

from pipeline.data import data_directory
from pipeline.errors import OptionError, TargetError, unknown_name

LIMIT_VARIABLE = "PIPELINE_INSTRUCTION_SET_LIMIT"
"""Environment variable that names an instruction set; CPU features beyond those that it needs count as missing."""

_CPUINFO = Path("/proc/cpuinfo")

_AT_HWCAP = 16
_AT_HWCAP2 = 26

_ARM64_HWCAP = {"fp": 0, "asimd": 1, "fphp": 9, "asimdhp": 10, "asimddp": 20, "sve": 22}
_ARM64_HWCAP2 = {"sve2": 1, "i8mm": 13, "bf16": 14}

_SYSCALL_ARCH_PRCTL = 158
_ARCH_REQ_XCOMP_PERM = 0x1023
_XFEATURE_XTILE_DATA = 18
"""Numbers of the system call by which a process asks Linux for AMX's matrix registers before it uses them."""

_MACHINE_ALIASES = {"amd64": "x86_64", "arm64": "aarch64"}


def architecture() -> str:
    """Return the CPU architecture as in the first part of a target triple: "x86_64", "aarch64", ..."""
    machine = platform.machine().lower()
    return _MACHINE_ALIASES.get(machine, machine)


def cpu_features() -> frozenset[str]:
    """Return the features that the CPU has and that the kernel lets programs use.

    On arm64, they come from the auxiliary vector, as /proc/cpuinfo shows the host's features under user-mode emulation;
    only features that targets can ask for are known there. On x86, this function asks the kernel for AMX's tiles, for
    this process and all its threads; if the kernel refuses, they count as missing.

    If PIPELINE_INSTRUCTION_SET_LIMIT names an instruction set, features that it doesn't need are left out.

    Raises:
        TargetError: the features can't be found out.
        OptionError: PIPELINE_INSTRUCTION_SET_LIMIT isn't the name of an instruction set.
    """
    available, limit = _all_features(), os.environ.get(LIMIT_VARIABLE)
    return _limited(available, limit) if limit else available


def _all_features() -> frozenset[str]:
    if platform.system() != "Linux":
        raise _unknown_features(f"they are found out on Linux only, and this is {platform.system() or 'unknown'}")
    if architecture() == "aarch64":
        return _arm64_features()
    flags = _cpuinfo_flags()
    if "amx_tile" in flags and not _request_tiles():
        return frozenset(flag for flag in flags if not flag.startswith("amx_"))
    return flags


def missing_features(target_architecture: str, required: tuple[str, ...]) -> tuple[str, ...]:
    """Return what this machine lacks: the architecture if it has another one, else Linux, else CPU features.

    Raises:
        TargetError: the CPU's features can't be found out, and some are required.
        OptionError: PIPELINE_INSTRUCTION_SET_LIMIT names no instruction set.
    """
    if target_architecture != architecture():
        return (target_architecture,)
    if platform.system() != "Linux":
        return ("Linux",)
    available = cpu_features() if required else frozenset()
    return tuple(feature for feature in required if feature not in available)


def _limited(available: frozenset[str], limit: str) -> frozenset[str]:
    """Return the features that a limit leaves; a limit for another architecture leaves all."""
    known = _instruction_sets()
    if limit not in known:
        raise OptionError(f"{LIMIT_VARIABLE}: {unknown_name('instruction set', limit, known)}")
    limited_architecture, needed = known[limit]
    return available & needed if limited_architecture == architecture() else available


@functools.cache
def _instruction_sets() -> dict[str, tuple[str, frozenset[str]]]:
    """Return architecture and features of each instruction set: the features that all its shipped targets require."""
    # Only here: a runner should be ready soon.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    found: dict[str, tuple[str, frozenset[str]]] = {}
    for path in sorted(data_directory("targets").glob("*.toml")):
        target = tomllib.loads(path.read_text(encoding="utf-8"))
        if "instruction_set" in target:
            name, features = target["instruction_set"], frozenset(target["required_features"])
            found[name] = target["triple"].partition("-")[0], features & found.get(name, ("", features))[1]
    return found


def _request_tiles() -> bool:
    arguments = (ctypes.c_long(v) for v in (_SYSCALL_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILE_DATA))
    return int(ctypes.CDLL(None).syscall(*arguments)) == 0


def _arm64_features() -> frozenset[str]:
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    words = ((getauxval(_AT_HWCAP), _ARM64_HWCAP), (getauxval(_AT_HWCAP2), _ARM64_HWCAP2))
    if words[0][0] == 0:
        raise _unknown_features("the auxiliary vector doesn't have them")
    return frozenset(name for word, bits in words for name, bit in bits.items() if word >> bit & 1)


def _cpuinfo_flags() -> frozenset[str]:
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise _unknown_features(f"{_CPUINFO} can't be read: {error.strerror}") from error
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return frozenset(value.split())
    raise _unknown_features(f"{_CPUINFO} has no line of flags")


def _unknown_features(reason: str) -> TargetError:
    return TargetError(
        f"It can't be found out which features this machine's CPU ({architecture()}) has, nor which libraries it can "
        f"run: {reason}."
    )


def usable_cores() -> tuple[tuple[int, ...], ...]:
    """Return the CPU numbers that this process may use, grouped by the physical core that they share."""
    cores: dict[str, list[int]] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        # Containers and emulators may hide the topology: then each CPU counts as a core.
        core = siblings.read_text(encoding="ascii") if siblings.is_file() else str(cpu)
        cores.setdefault(core, []).append(cpu)
    return tuple(tuple(cpus) for cpus in cores.values())
