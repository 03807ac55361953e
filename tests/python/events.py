"""Reads a TensorBoard event file as TensorBoard does, and compares it with the metrics.

    python tests/python/events.py TRAINING_FOLDER

With the package `tensorboard` installed its own reader reads the file too.
"""

import json
import pathlib
import struct
import sys

TABLE = []
for n in range(256):
    for _ in range(8):
        n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
    TABLE.append(n)


def masked(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(data):
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        body = data[at + 12 : at + 12 + length]
        assert struct.unpack_from("<I", data, at + 8)[0] == masked(data[at : at + 8])
        assert struct.unpack_from("<I", data, at + 12 + length)[0] == masked(body)
        yield body
        at += 16 + length


def fields(data):
    """The fields of a protocol buffer: number and value."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = varint()
        kind = tag & 7
        if kind == 0:
            yield tag >> 3, varint()
        else:
            size = {1: 8, 2: None, 5: 4}[kind]
            size = varint() if size is None else size
            yield tag >> 3, data[at : at + size]
            at += size


def scalars(path):
    for number, body in enumerate(records(path.read_bytes())):
        event = dict(fields(body))
        if number == 0:
            assert event[3] == b"brain.Event:2", event
            continue
        for _, value in fields(event[5]):
            value = dict(fields(value))
            yield value[1].decode(), event.get(2, 0), struct.unpack("<f", value[2])[0]


def expected(folder):
    for line in map(json.loads, (folder / "metrics.jsonl").open()):
        if line["kind"] == "train":
            for name in ["loss", "lr", "grad_norm", "tokens_per_s"]:
                yield f"train/{name}", line["step"], line[name]
        elif line["kind"] == "validation":
            yield "validation/loss", line["step"], line["loss"]


def single(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def main(folder):
    (path,) = (folder / "tensorboard").iterdir()
    wanted = [(name, step, single(value)) for name, step, value in expected(folder)]
    assert list(scalars(path)) == wanted, "the event file says something else"
    said = "by this script"
    try:
        from tensorboard.backend.event_processing import event_accumulator
    except ImportError:
        pass
    else:
        read = event_accumulator.EventAccumulator(str(path.parent)).Reload()
        for name in {name for name, _, _ in wanted}:
            found = [(name, event.step, event.value) for event in read.Scalars(name)]
            assert found == [one for one in wanted if one[0] == name], name
        said += " and by TensorBoard"
    print(f"{len(wanted)} values read {said}")


main(pathlib.Path(sys.argv[1]))
