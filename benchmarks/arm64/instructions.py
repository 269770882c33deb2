"""Disassembles arm64 instructions, with LLVM's `llvm-mc`, and sorts them into classes."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping

import click

CLASSES = (
    *("dot", "matrix", "integer multiply", "float multiply"),
    *("vector load", "vector store", "other vector", "load", "store", "branch", "scalar"),
)
"""In the order of tables. What reads or writes vector registers is one of the vector classes."""

_DISASSEMBLE = ("llvm-mc", "-disassemble", "-show-encoding", "-triple=aarch64")
FEATURES = "-mattr=+v8.6a,+dotprod,+i8mm,+bf16,+fullfp16,+fp16fml,+lse,+rcpc,+sha3,+sm4,+aes,+mte,+pauth"
"""What LLVM's tools have to know."""

_ENCODING = re.compile(r"encoding: \[(.*)\]")
_VECTOR = re.compile(r"\b(?:v\d+\.|[bhsdq]\d+\b)")
_STACK = re.compile(r"\[(?:sp|x29)\b")

_DOT = frozenset({"sdot", "udot", "usdot", "sudot"})
_MATRIX = frozenset({"smmla", "ummla", "usmmla"})
_INTEGER = re.compile(
    r"(?:[su]q?r?d?mu?l[hal]|sqr?dml[as]h|ml[as]|[su]ml[as]l|[su]mull|mul|pmul)2?$|sqr?dmulh|sqdmull2?"
)
_FLOAT = re.compile(r"f(?:n?m(?:add|sub|ul)|ml[as]|mulx)(?:l2?)?$")
_LOAD = re.compile(r"ld")
_STORE = re.compile(r"st")
_BRANCH = re.compile(r"(?:b|bl|blr|br|ret|cbn?z|tbn?z|b\..*)$")


def disassemble(words: Iterable[int]) -> dict[int, str]:
    """Return the text of each instruction.

    Raises:
        click.ClickException: LLVM isn't installed.
    """
    if shutil.which(_DISASSEMBLE[0]) is None:
        raise click.ClickException(f"{_DISASSEMBLE[0]} isn't installed; on Debian: apt-get install llvm")
    unique = sorted(set(words))
    texts = {word: f".inst {word:#010x}" for word in unique}
    lines = "\n".join(" ".join(f"{byte:#04x}" for byte in word.to_bytes(4, "little")) for word in unique)
    command = [*_DISASSEMBLE, FEATURES]
    # Its exit code is 1 if it doesn't know an instruction; that stays a number.
    output = subprocess.run(command, input=lines, capture_output=True, text=True, check=False).stdout
    for line in output.splitlines():
        if found := _ENCODING.search(line):
            word = int.from_bytes(bytes(int(byte, 16) for byte in found[1].split(",")), "little")
            texts[word] = " ".join(line.partition("//")[0].split())
    return texts


def class_of(text: str) -> str:
    """Return the class of an instruction; see `CLASSES`."""
    mnemonic, _, operands = text.partition(" ")
    vector = _VECTOR.search(operands) is not None
    if mnemonic in _DOT:
        return "dot"
    if mnemonic in _MATRIX:
        return "matrix"
    if vector and _FLOAT.match(mnemonic):
        return "float multiply"
    if vector and _INTEGER.match(mnemonic):
        return "integer multiply"
    if _BRANCH.match(mnemonic):
        return "branch"
    if _LOAD.match(mnemonic):
        return "vector load" if vector else "load"
    if _STORE.match(mnemonic):
        return "vector store" if vector else "store"
    return "other vector" if vector else "scalar"


def on_stack(text: str) -> bool:
    """Return whether an instruction loads a vector from the stack or stores one there: in a loop, a spill."""
    mnemonic, _, operands = text.partition(" ")
    return bool(
        (_LOAD.match(mnemonic) or _STORE.match(mnemonic)) and _VECTOR.search(operands) and _STACK.search(operands)
    )


def by_class(counts: Mapping[int, int], texts: Mapping[int, str]) -> dict[str, int]:
    """Return how many instructions of each class were executed."""
    result: Counter[str] = Counter()
    for word, count in counts.items():
        result[class_of(texts[word])] += count
    return {name: result[name] for name in CLASSES}
