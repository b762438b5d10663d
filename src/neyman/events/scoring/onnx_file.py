"""Whether an ONNX file is complete, read without the onnx package, which workers do not need.

ONNX runtime takes the numbers of "external" tensors from files of the working directory, and before version 1.24 from
any path: a stranger's model would read files here, and its digest would not be that of its weights.
"""

from __future__ import annotations

from collections.abc import Iterator

# The messages of onnx.proto that hold tensors, as fields of each other.
FIELDS: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}
LOCATION = 14  # TensorProto.data_location, 0 in the file itself
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_LONGEST = 63  # bits before the last byte of a number


def is_complete(data: bytes) -> bool:
    """Tell whether no tensor of a model is outside its file.

    Raises
    ------
    ValueError
        When it is no protocol buffer.
    """
    messages = [("ModelProto", memoryview(data))]
    while messages:
        kind, message = messages.pop()
        for field, value in _fields(message):
            if kind == "TensorProto" and field == LOCATION and value:
                return False
            if isinstance(value, memoryview) and field in FIELDS[kind]:
                messages.append((FIELDS[kind][field], value))
    return True


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(message):
        tag, at = _number(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _number(message, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = _number(message, at)
        elif kind in (_EIGHT, _FOUR):
            size = 8 if kind == _EIGHT else 4
        else:
            raise ValueError(f"a field of the unknown kind {kind}")
        if at + size > len(message):
            raise ValueError("a field is longer than its message")
        if kind == _BYTES:
            yield tag >> 3, message[at : at + size]
        at += size


def _number(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, _LONGEST + 1, 7):
        if at == len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number without end")
