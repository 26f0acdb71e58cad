"""Values between judge and servant: JSON for their structure, raw bytes for tensors. Nothing in it can be executed."""

from __future__ import annotations

import json
import math
import struct
from typing import Any, Optional

import numpy as np
import torch

MAX_JSON, MAX_RAW, MAX_DEPTH = 2_000_000, 64_000_000, 12  # bytes, bytes, levels
HEADER = struct.Struct("!II")  # lengths of both parts
NAMES = "bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64".split()
DTYPES = {name: getattr(torch, name) for name in NAMES}
KINDS = {dtype: name for name, dtype in DTYPES.items()}


class Unfit(Exception):
    """A value or a message that cannot travel; `args[0]` is 'wrong type' or 'output limit'."""


def pack(value: Any) -> bytes:
    """The message that holds a value."""
    raw: list[bytes] = []
    text = json.dumps(_encode(value, raw, 0)).encode()
    if len(text) > MAX_JSON:
        raise Unfit("output limit")
    return HEADER.pack(len(text), sum(map(len, raw))) + text + b"".join(raw)


def _encode(value: Any, raw: list[bytes], depth: int) -> Any:
    inner = lambda items: [_encode(item, raw, depth + 1) for item in items]
    if isinstance(value, np.generic):
        value = value.item()
    if depth > MAX_DEPTH or (isinstance(value, int) and abs(value) >= 1 << 63):
        raise Unfit("wrong type")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return inner(value)
    if isinstance(value, tuple):
        return {"tuple": inner(value)}
    if isinstance(value, dict):
        return {"dict": [inner(pair) for pair in value.items()]}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"array": _encode_tensor(torch.from_numpy(np.ascontiguousarray(value)), raw)}
    if isinstance(value, torch.Tensor):
        return {"tensor": _encode_tensor(value, raw)}
    raise Unfit("wrong type")


def _encode_tensor(value: torch.Tensor, raw: list[bytes]) -> list:
    if value.dtype not in KINDS or value.layout != torch.strided:
        raise Unfit("wrong type")
    if value.numel() * value.element_size() + sum(map(len, raw)) > MAX_RAW:
        raise Unfit("output limit")
    flat = value.detach().cpu().contiguous().reshape(-1)
    raw.append(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return [KINDS[value.dtype], list(value.shape)]


def unpack(data: bytes) -> Optional[Any]:
    """The value of a message that came in whole; None as long as parts are missing. It trusts nothing that it reads."""
    if len(data) < HEADER.size:
        return None
    text, raw = HEADER.unpack(data[: HEADER.size])
    if text > MAX_JSON or raw > MAX_RAW:
        raise Unfit("output limit")
    if len(data) < HEADER.size + text + raw:
        return None
    middle = HEADER.size + text
    try:
        tree = json.loads(bytes(data[HEADER.size : middle]))
        return _decode(tree, _Reader(data[middle : middle + raw]), 0)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise Unfit("wrong type") from error


class _Reader:
    """Raw bytes, read once from front to back: no message can ask for more than it holds."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, length: int) -> bytearray:
        if self.at + length > len(self.data):
            raise ValueError("too few bytes")
        self.at += length
        return bytearray(self.data[self.at - length : self.at])


def _decode(node: Any, raw: _Reader, depth: int) -> Any:
    if depth > 2 * MAX_DEPTH:
        raise ValueError("too deep")
    if not isinstance(node, (list, dict)):
        return node
    inner = lambda items: [_decode(item, raw, depth + 1) for item in items]
    if isinstance(node, list):
        return inner(node)
    ((kind, body),) = node.items()
    if kind == "tuple":
        return tuple(inner(body))
    if kind == "dict":
        return {key: value for key, value in (inner(pair) for pair in body)}
    tensor = _decode_tensor(body, raw)
    return {"tensor": lambda: tensor, "array": tensor.numpy}[kind]()


def _decode_tensor(body: list, raw: _Reader) -> torch.Tensor:
    name, shape = body
    if len(shape) > 8 or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError("no shape")
    dtype, count = DTYPES[name], math.prod(shape)
    data = raw.take(count * torch.empty(0, dtype=dtype).element_size())
    return torch.frombuffer(data, dtype=dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)
