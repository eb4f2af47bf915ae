"""Weight files that would run something, or take all memory or time, if they were read with trust."""

from __future__ import annotations

import copy
import functools
import pickle
import struct
import zipfile
from pathlib import Path

import torch
from hostile_pickles import PICKLES, HostileFile, hostile, write_raw
from official_files import unzip, write_zip, yolov6_classes

__all__ = ["HOSTILE", "HostileFile"]

BOMBS: list[HostileFile] = []
OTHERS: list[HostileFile] = []

bomb = functools.partial(hostile, among=BOMBS)
other = functools.partial(hostile, among=OTHERS)

# Bombs


@bomb("larger than its storage")
def stride_0_bomb(path: Path, canary: Path) -> None:
    torch.save({"model": torch.zeros(1).expand(10**12)}, path)


@bomb("larger than its storage")
def view_beyond_its_storage(path: Path, canary: Path) -> None:
    tensor = torch.zeros(8)[4:]
    torch.save({"model": tensor}, path)
    pickled = unzip(path.read_bytes())["data.pkl"]
    assert pickled.count(b"K\x04K\x04\x85") == 1
    write_zip(path, pickled.replace(b"K\x04K\x04\x85", b"K\x05K\x04\x85"), {"data/0": bytes(32)})


@bomb("skips to memo")
def memo_index_bomb(path: Path, canary: Path) -> None:
    write_raw(path, b"}r\xff\xff\xff\x7f")


@bomb("dictionary key")
def hash_bomb(path: Path, canary: Path) -> None:
    write_raw(path, b"})" + b"".join(b"q%ch%c\x86" % (index, index) for index in range(100)) + b"Ns")


@bomb("instructions")
def instruction_bomb(path: Path, canary: Path) -> None:
    write_raw(path, b"N" * 4_100_000)


@bomb("larger than 16 MiB")
def pickle_bomb(path: Path, canary: Path) -> None:
    write_raw(path, bytes(17 << 20))


@bomb("compressed")
def deflated_zip_bomb(path: Path, canary: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/data/0", bytes(10_000_000))


@bomb("more bytes than the file has")
def overlapping_records_bomb(path: Path, canary: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/data/0", bytes(100_000))
        for number in range(1, 100):
            record = copy.copy(archive.filelist[-1])
            record.filename = f"archive/data/{number}"
            archive.filelist.append(record)


@bomb("twice")
def two_records_of_one_name(path: Path, canary: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.filelist.append(archive.filelist[0])


@bomb("directory is too large")
def directory_bomb(path: Path, canary: Path) -> None:
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, *[0] * 7, 1, *[0] * 6) + b"x"
    size = 300_000 * len(entry)
    path.write_bytes(entry * 300_000 + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65_535, 65_535, size, 0, 0))


@bomb(None)
def module_in_itself(path: Path, canary: Path) -> None:
    with yolov6_classes() as make:
        model = make.make("Model")()
        model._modules["again"] = model
        torch.save({"model": model}, path)


@bomb(None)
def modules_that_double_at_each_level(path: Path, canary: Path) -> None:
    with yolov6_classes() as make:
        model = make.make("Model")()
        for _ in range(30):
            outer = make.make("Model")()
            outer._modules.update(left=model, right=model)
            model = outer
        torch.save({"model": model}, path)


@bomb(None)
def tensor_under_many_names(path: Path, canary: Path) -> None:
    with yolov6_classes() as make:
        model = make.make("Model")()
        weight = torch.zeros(1_000_000)
        model._buffers.update({f"b{number}": weight for number in range(10_000)})
        torch.save({"model": model}, path)


@bomb(None)
def deeply_nested_tuple(path: Path, canary: Path) -> None:
    write_raw(path, b")" + b"\x85" * 300_000)


# Bombs in the format of this project


def own(model: object) -> dict[str, object]:
    head = {"format": "yolov6-ignite", "version": 1, "kind": "weights", "config": {}, "names": ["a"]}
    return {**head, "metrics": {}, "epoch": 1, "model": model}


@bomb("larger than its storage")
def own_expanded_tensor(path: Path, canary: Path) -> None:
    torch.save(own({"w": torch.zeros(1, dtype=torch.half).expand(10**12)}), path)


@bomb("compressed")
def own_deflated_zeros(path: Path, canary: Path) -> None:
    torch.save(own({"w": torch.zeros(5_000_000)}), path)
    records = unzip(path.read_bytes())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(f"archive/{name}", data)
    assert path.stat().st_size < 100_000


@bomb("compressed")
def zip_of_zeros(path: Path, canary: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"")
        archive.writestr("archive/data/0", bytes(20_000_000))


@bomb("model: missing, or not")
def own_tensor_under_many_names(path: Path, canary: Path) -> None:
    weight = torch.zeros(1_000_000, dtype=torch.half)
    torch.save(own({f"w{number}": weight for number in range(10_000)}), path)


@bomb("config: missing, or not")
def own_configuration_in_itself(path: Path, canary: Path) -> None:
    content = own({"w": torch.zeros(1)})
    content["config"] = {"model": content}
    torch.save(content, path)


@bomb("metrics: missing, or not")
def own_metrics_that_double_at_each_level(path: Path, canary: Path) -> None:
    value: list[object] = []
    for _ in range(30):
        value = [value, value]
    torch.save({**own({}), "metrics": {"a": value}}, path)


# Files that are something else


@other("not a checkpoint of this project, and no official weight file")
def plain_state_dict(path: Path, canary: Path) -> None:
    torch.save({"model": {"w": torch.zeros(1)}, "format": torch.zeros(3)}, path)


@other("before 1.6")
def format_of_old_torch(path: Path, canary: Path) -> None:
    torch.save({"model": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)


@other("damaged")
def truncated_zip(path: Path, canary: Path) -> None:
    torch.save({"model": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-200])


@other("Bad CRC-32")
def damaged_storage(path: Path, canary: Path) -> None:
    torch.save({"model": torch.full((4,), -1.0)}, path)
    path.write_bytes(path.read_bytes().replace(b"\x80\xbf\0\0\x80\xbf", b"\x80\xbf\0\1\x80\xbf"))


@other("0 records data.pkl")
def pickle_missing(path: Path, canary: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data/0", bytes(4))


@other("2 records data.pkl")
def two_pickles(path: Path, canary: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
        archive.writestr("b/data.pkl", pickle.dumps({}, 2))


@other("byte order")
def big_endian(path: Path, canary: Path) -> None:
    write_zip(path, pickle.dumps({}, 2), {"byteorder": b"big"})


@other("not a zip file")
def plain_text(path: Path, canary: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\n")


@other("not a zip file")
def empty_file(path: Path, canary: Path) -> None:
    path.touch()


@other("is not a file")
def folder(path: Path, canary: Path) -> None:
    path.mkdir()


@other("no such weight file")
def nothing(path: Path, canary: Path) -> None:
    pass


HOSTILE = [*PICKLES, *BOMBS, *OTHERS]
