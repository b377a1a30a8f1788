"""Files of weights that would run code, or take all memory or time, if anything believed them."""

import copyreg
import functools
import io
import os
import pickle
import struct
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

CANARY = "executed"
"""The folder that every payload would make in the current one"""


class Call:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.parts = function, arguments

    def __reduce__(self) -> Any:
        return self.parts


class State:
    """Pickled as an object of its own class with a state."""

    def __init__(self) -> None:
        self.attack = Call(os.mkdir, CANARY)


MKDIR = b"cposix\nmkdir\n"
RUN = MKDIR + b"(X\x08\x00\x00\x00executedtR"
"""Steps that leave the result of os.mkdir(CANARY)"""
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
HOOKS = b"\x89ccollections\nOrderedDict\n)R"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def whole(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def storage(elements: int = 4) -> bytes:
    return (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + whole(elements) + b"tQ"
    )


def tensor(size: bytes, stride: bytes, elements: int = 4) -> bytes:
    return TENSOR + b"(" + storage(elements) + whole(0) + size + stride + HOOKS + b"tR"


def pair(*values: int) -> bytes:
    return b"(" + b"".join(map(whole, values)) + b"t"


def state(steps: bytes) -> bytes:
    """A pickle of {"model": {"weight": what the steps leave}, "version": 1, "config": ""}."""
    items = text("model") + b"}" + text("weight") + steps + b"s"
    return b"\x80\x02}(" + items + text("version") + whole(1) + text("config") + text("") + b"u."


def archive(
    content: bytes, *, method: int = zipfile.ZIP_STORED, more: tuple[tuple[str, bytes], ...] = ()
) -> bytes:
    """As torch.save packs a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as packed:
        for name, data in (
            ("data.pkl", content),
            ("version", b"3\n"),
            ("byteorder", b"little"),
            ("data/0", b"\0" * 16),
        ):
            packed.writestr(f"archive/{name}", data)
        for name, data in more:
            packed.writestr(name, data)
    return file.getvalue()


def saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save({"version": 1, "config": "", "model": {"weight": value}}, file, **options)
    return file.getvalue()


def signed(content: bytes) -> bytes:
    """With the checksum that our checkpoints end with, and that anybody can compute."""
    body = content[:-2] if content.startswith(b"PK") else content
    comment = b"cvtasks-crc32:"
    body += struct.pack("<H", len(comment) + 8)
    return body + comment + b"%08x" % zlib.crc32(body)


def torchscript() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1, 1)), file)
    return file.getvalue()


def declared_huge() -> bytes:
    """A member whose header promises 3 GB."""
    content = bytearray(archive(state(tensor(pair(4), pair(1)))))
    start = content.rindex(b"PK\x01\x02")
    content[start + 20 : start + 28] = struct.pack("<II", 3 << 30, 3 << 30)
    return bytes(content)


def overlapping() -> bytes:
    """A hundred members that are all the same bytes of the file."""
    content = archive(state(tensor(pair(4), pair(1))), more=(("archive/data/1", b"\0" * 1_000_000),))
    start = content.rindex(b"PK\x01\x02")
    entry, end = (
        content[start : content.rindex(b"PK\x05\x06")],
        bytearray(content[content.rindex(b"PK\x05\x06") :]),
    )
    entries = b"".join(entry.replace(b"data/1", b"dat%03d" % n, 1)[: len(entry)] for n in range(100))
    count, size = struct.unpack_from("<H", end, 8)[0], struct.unpack_from("<I", end, 12)[0]
    struct.pack_into("<HHI", end, 8, count + 100, count + 100, size + len(entries))
    return content[: start + len(entry)] + entries + bytes(end)


def laughs() -> bytes:
    """A list of ten lists that are one and the same, sixty times over: 10 ** 60 values in a kilobyte."""
    steps = b"]q\x00"
    for _ in range(60):
        steps += b"](" + b"h\x00" * 10 + b"eq\x00"
    return b"(" + steps + b"t"


PAYLOADS: dict[str, Callable[[], bytes]] = {
    "a call": lambda: saved(Call(os.mkdir, CANARY)),
    "os.system": lambda: saved(Call(os.system, f"mkdir {CANARY}")),
    "a call by STACK_GLOBAL": lambda: archive(pickle.dumps({"a": Call(os.mkdir, CANARY)}, 4)),
    "a call in a legacy file": lambda: saved(Call(os.mkdir, CANARY), _use_new_zipfile_serialization=False),
    "a plain pickle": lambda: pickle.dumps({"weight": Call(os.mkdir, CANARY)}, 2),
    "a pickle of text": lambda: pickle.dumps({"weight": Call(os.mkdir, CANARY)}, 0),
    "INST": lambda: archive(b"(" + text(CANARY) + b"iposix\nmkdir\n."),
    "OBJ": lambda: archive(b"(" + MKDIR + text(CANARY) + b"o."),
    "NEWOBJ": lambda: archive(state(MKDIR + b"(" + text(CANARY) + b"t\x81")),
    "EXT": lambda: archive(b"\x80\x02\x82\x01."),
    "an object with a state": lambda: saved(State()),
    "a state for a tensor": lambda: archive(
        state(tensor(pair(4), pair(1)) + b"}" + text("grad_fn") + text("x") + b"sb")
    ),
    "attributes of an OrderedDict": lambda: archive(
        b"\x80\x02ccollections\nOrderedDict\n)R}" + text("items") + text("x") + b"sb."
    ),
    "the kind of a storage": lambda: archive(
        state(
            TENSOR
            + b"(("
            + text("storage")
            + RUN
            + text("0")
            + text("cpu")
            + whole(4)
            + b"tQ"
            + whole(0)
            + pair(4)
            + pair(1)
            + HOOKS
            + b"tR"
        )
    ),
    "the name of a storage": lambda: archive(
        b"\x80\x02(" + text("storage") + b"ctorch\nFloatStorage\n" + RUN + text("cpu") + whole(4) + b"tQ."
    ),
    "a persistent id of another sort": lambda: archive(
        b"\x80\x02(" + text("module") + MKDIR + text(CANARY) + text("a.py") + whole(1) + b"tQ."
    ),
    "functools.partial": lambda: saved(Call(functools.partial(os.mkdir, CANARY))),
    "getattr": lambda: saved(Call(getattr, Call(__import__, "os"), "mkdir")),
    "eval": lambda: saved(Call(eval, f"__import__('os').mkdir({CANARY!r})")),
    "exec": lambda: saved(Call(exec, f"import os; os.mkdir({CANARY!r})")),
    "a name in __main__": lambda: archive(state(b"c__main__\nModel\n)R")),
    "a factory of a defaultdict": lambda: saved(defaultdict(functools.partial(os.mkdir, CANARY))),
    "an array of NumPy": lambda: saved(np.array([Call(os.mkdir, CANARY)], dtype=object)),
    "copyreg": lambda: saved(Call(copyreg._reconstructor, State, object, None)),
    "a whole module": lambda: saved(torch.nn.Linear(2, 2)),
    "torch.load": lambda: saved(Call(torch.load, "other.pt")),
    "torch.hub": lambda: saved(Call(torch.hub.load, "owner/repository", "model")),
    "an allowed function with a state": lambda: archive(
        state(
            b"ctorch._utils\n_rebuild_parameter_with_state\n("
            + tensor(pair(4), pair(1))
            + HOOKS
            + b"}"
            + text("__class__")
            + text("x")
            + b"stR"
        )
    ),
    "an allowed wrapper": lambda: archive(
        state(b"ctorch._utils\n_rebuild_wrapper_subclass\n(" + text("x") + b"tR")
    ),
    "an allowed bytearray of 64 GB": lambda: archive(state(b"cbuiltins\nbytearray\n" + pair(1 << 36) + b"R")),
    "endless counting": lambda: archive(
        state(b"ccollections\nCounter\n(cbuiltins\nbytearray\n" + pair(1 << 36) + b"RtR")
    ),
    "a tensor taken apart": lambda: archive(
        state(b"ccollections\nOrderedDict\n(" + tensor(pair(1 << 23, 2), pair(0, 0)) + b"tR")
    ),
    "an expanded tensor": lambda: archive(state(tensor(pair(1 << 40), pair(0)))),
    "a size that is a tensor": lambda: archive(state(tensor(tensor(pair(1 << 24), pair(0)), pair(1)))),
    "impossible strides": lambda: archive(state(tensor(pair(2, 2), pair(1 << 40, 1)))),
    "negative sizes": lambda: archive(state(tensor(pair(-1, -4), pair(1, 1)))),
    "an offset outside": lambda: archive(
        state(TENSOR + b"(" + storage() + whole(1 << 40) + pair(4) + pair(1) + HOOKS + b"tR")
    ),
    "a storage larger than its bytes": lambda: archive(state(tensor(pair(100), pair(1), elements=100))),
    "a storage of 4 TB": lambda: archive(state(tensor(pair(1 << 40), pair(1), elements=1 << 40))),
    "half a gigabyte, compressed": lambda: archive(bytes(1 << 29), method=zipfile.ZIP_DEFLATED),
    "a compressed storage": lambda: archive(
        state(tensor(pair(4), pair(1))),
        method=zipfile.ZIP_DEFLATED,
        more=(("archive/data/1", bytes(1 << 28)),),
    ),
    "a member of 3 GB by its header": declared_huge,
    "members that overlap": overlapping,
    "a member outside of the archive": lambda: archive(
        state(tensor(pair(4), pair(1))), more=((f"../../{CANARY}", b"x"),)
    ),
    "a pickle in capitals": lambda: archive(state(RUN)).replace(b"data.pkl", b"DATA.PKL"),
    "TorchScript": torchscript,
    "deep lists": lambda: archive(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."),
    "a list in itself": lambda: archive(state(b"]q\x00h\x00a")),
    "laughing lists": lambda: archive(state(laughs())),
    "a safetensors header of 2 ** 60 bytes": lambda: (
        struct.pack("<Q", 1 << 60) + b'{"weight":{"dtype":"F32"}}'
    ),
    "a tar": lambda: b"storages".ljust(257, b"\0") + b"ustar\x0000" + bytes(1000),
    "half a zip": lambda: archive(state(RUN))[:80],
}
