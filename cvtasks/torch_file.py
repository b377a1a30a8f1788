"""Reads what `torch.save` wrote, tensors and plain values alone; the only place that does.

torch's own reader runs no code of a file (`weights_only=True`). But it calls functions of torch with whatever arguments the
file names, unpacks what was compressed, and believes the sizes that it reads: a file of a hundred bytes can ask for all
memory, or for days. So the file's pickle is gone through beforehand, step by step, without calling or importing anything,
and has to be what `torch.save` makes of a state: dictionaries, lists, tuples, text, numbers, and dense tensors.
"""

from __future__ import annotations

import io
import math
import os
import pickletools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

EXPANDED = 1 << 24
"""A tensor may have this many elements even if its storage is smaller: torch.save keeps an expanded one as it is."""
DEPTH = 100
"""Of containers in containers; a checkpoint has 6"""
SHARED = 10
"""A value that stands in several places takes no space in the file, so the values may be this many times its bytes."""
LEGACY_PICKLES = 5
"""Before 2020 a file was so many pickles in a row: a mark, a version, the machine, the state, the names of its storages."""
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUES = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINSTRING")
)


class NotPlainError(ValueError):
    """The file holds, or asks for, something else than tensors and plain values."""


def load(file: BinaryIO) -> Any:
    """The file's content, on the CPU. Raises NotPlainError, and what torch raises for a damaged file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        for stream in _pickles(file, size):
            _Reader(size).read(stream)
    except (IndexError, KeyError, TypeError, ValueError, RecursionError, zipfile.BadZipFile) as error:
        raise NotPlainError(str(error)) from error
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def _pickles(file: BinaryIO, size: int) -> Iterator[BinaryIO]:
    """The file's pickles, one after the other."""
    if file.read(2) != b"PK":
        file.seek(0)
        for _ in range(LEGACY_PICKLES):
            yield file  # where the one before has ended
        return
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if (
            any(m.compress_type != zipfile.ZIP_STORED for m in members)
            or sum(m.file_size for m in members) > size
        ):
            raise NotPlainError("its parts are compressed, or overlap")
        for member in members:
            if member.filename.lower().endswith(".pkl"):  # torch finds it in capitals, too
                yield io.BytesIO(archive.read(member))


@dataclass(frozen=True)
class _Name:
    """What a pickle names: `module name`; never looked up."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """A tensor's memory."""

    elements: int


class _Tensor:
    """A tensor."""


class _Reader:
    """A pickle's machine (see the standard library's pickletools), with the steps that torch.save uses."""

    def __init__(self, file_size: int) -> None:
        self.file_size = file_size
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def read(self, stream: BinaryIO) -> None:
        """Go through one pickle, up to its end. Raises NotPlainError, or what a wrong step leads to."""
        length = 0
        for step, argument, _ in pickletools.genops(stream):
            length += 1 + len(argument) if isinstance(argument, str) else 9
            if step.name != "STOP":
                self.take(step.name, argument)
        self.check(self.stack.pop(), most=SHARED * length)

    def take(self, step: str, argument: Any) -> None:
        stack = self.stack
        if step in VALUES:
            stack.append(argument)
        elif step in CONSTANTS:
            stack.append(CONSTANTS[step])
        elif step == "GLOBAL":
            stack.append(_Name(argument))
        elif step in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[step]())
        elif step == "MARK":
            self.marks.append(len(stack))
        elif step == "TUPLE":
            stack.append(tuple(self.since_mark()))
        elif step in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(step[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif step in ("APPEND", "APPENDS"):
            items = [stack.pop()] if step == "APPEND" else self.since_mark()
            self.top(list).extend(items)
        elif step in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if step == "SETITEM" else self.since_mark()
            self.top(dict).update(zip(items[::2], items[1::2], strict=True))
        elif step in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif step in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif step == "BINPERSID":
            stack.append(self.storage(stack.pop()))
        elif step == "REDUCE":
            arguments = stack.pop()
            stack.append(self.call(stack.pop(), arguments))
        elif step == "BUILD":
            # Any other attribute of an OrderedDict could take the place of one of its methods.
            if not isinstance(state := stack.pop(), dict) or set(state) - {"_metadata"}:
                raise NotPlainError("it sets attributes")
            self.top(dict)
        elif step != "PROTO":
            raise NotPlainError(f"it holds the step {step}")

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise NotPlainError(f"it fills a {type(self.stack[-1]).__name__} as a {kind.__name__}")
        return self.stack[-1]

    def storage(self, name: Any) -> _Storage:
        """`name` is ("storage", type, key, device, number of elements), in old files with None behind."""
        kind, _, _, _, elements, *_ = name
        if kind != "storage" or not 0 <= elements <= self.file_size:
            raise NotPlainError("it has a storage larger than the file")
        return _Storage(elements)

    def call(self, function: Any, arguments: Any) -> Any:
        """What a call of one of the few known functions gives; none is made."""
        name = function.name if isinstance(function, _Name) else ""
        if name == "collections OrderedDict" and arguments == ():
            return {}
        if name == "collections OrderedDict" and all(
            type(pair) is list for pair in arguments[0]
        ):  # of Python 2
            return dict(arguments[0])
        if name == "collections Counter" and type(arguments[0]) is dict:  # the milestones of MultiStepLR
            return dict(arguments[0])
        if name == "torch Size" and type(arguments[0]) is tuple:
            return arguments[0]
        if name == "torch._utils _rebuild_parameter" and isinstance(arguments[0], _Tensor):
            return _Tensor()
        if name in ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"):
            storage, _, size, stride, *_ = arguments
            if type(size) is not tuple or type(stride) is not tuple or not isinstance(storage, _Storage):
                raise NotPlainError("it holds a tensor of no size")
            if math.prod(size) > max(storage.elements, EXPANDED):
                raise NotPlainError("it holds a tensor larger than the file")
            return _Tensor()
        raise NotPlainError(f"it calls {name}")

    def check(self, content: Any, *, most: int) -> None:
        """Raise NotPlainError for a value of another kind, too many of them, or too deep ones."""
        waiting, count = [(content, 0)], 0
        while waiting:
            value, depth = waiting.pop()
            count += 1
            if count > most or depth > DEPTH:
                raise NotPlainError("its values hold each other")
            if isinstance(value, dict | list | tuple):
                items = [*value, *value.values()] if isinstance(value, dict) else value
                waiting += [(item, depth + 1) for item in items]
            elif value is not None and not isinstance(value, str | int | float | _Tensor):
                raise NotPlainError(f"it holds a {type(value).__name__}")
