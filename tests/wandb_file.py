"""Reads what Weights & Biases wrote offline: a log of records in blocks, as LevelDB has them."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

BLOCK = 32 * 1024
HEADER = struct.Struct("<IHB")
"""Checksum, length and kind of a piece: 1 whole, 2 first, 3 middle, 4 last."""
WHOLE, LAST = 1, 4


def records(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file, whose own header is as long as that of a piece."""
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    place, record = HEADER.size, b""
    while place + HEADER.size <= len(content):
        rest = BLOCK - place % BLOCK
        if rest < HEADER.size:  # too little for a header: padding
            place += rest
            continue
        _, length, kind = HEADER.unpack_from(content, place)
        place += HEADER.size
        record += content[place : place + length]
        place += length
        if kind in (WHOLE, LAST):
            yield record
            record = b""


def history(path: Path) -> Iterator[dict]:
    """The rows that were logged."""
    from wandb.proto import wandb_internal_pb2

    for content in records(path):
        record = wandb_internal_pb2.Record.FromString(content)
        if record.HasField("history"):
            yield {
                ".".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }


def configuration(path: Path) -> dict:
    """The settings that the run was told."""
    from wandb.proto import wandb_internal_pb2

    told = {}
    for content in records(path):
        record = wandb_internal_pb2.Record.FromString(content)
        if record.HasField("config"):
            told |= {each.key: json.loads(each.value_json) for each in record.config.update}
    return told
