"""The data set YAML: where images are and what the classes are called (specification, training 12.1)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from yolov6_ignite.data.discovery import missing_path_message, require_images
from yolov6_ignite.errors import DatasetError

__all__ = ["DatasetFile", "load_dataset_file", "shipped_data_folder"]

logger = logging.getLogger("yolov6_ignite")

KEYS = {"path", "train", "val", "test", "nc", "names", "is_coco", "anno_path"}
# Keys that other tools write into the same files and that mean nothing here.
FOREIGN_KEYS = {"author", "channels", "description", "download", "flip_idx", "kpt_names", "kpt_shape", "license"}
FOREIGN_KEYS |= {"minival", "roboflow", "url", "version", "yaml_file"}


@dataclass(frozen=True)
class DatasetFile:
    """A data set as its YAML describes it.

    Attributes:
        path: the YAML file.
        names: class names by class index.
        train: absolute image folders of the training split.
        val: absolute image folders of the validation split.
        test: absolute image folders of the test split; may be empty.
        annotations: COCO annotation file that evaluation compares with, if the YAML names one (``anno_path``).
        is_coco: image names are COCO ids and detections are reported in COCO's 91 categories.
    """

    path: Path
    names: list[str]
    train: list[Path]
    val: list[Path]
    test: list[Path]
    annotations: Path | None
    is_coco: bool


def shipped_data_folder() -> Path:
    """Folder of the data set files that come with the package."""
    try:
        folder = Path(str(resources.files("yolov6_ignite.configs"))) / "data"
        if folder.is_dir():
            return folder
    except ModuleNotFoundError:
        pass
    return Path(__file__).resolve().parents[2] / "configs" / "data"  # running from the source tree


def load_dataset_file(path: str | Path, *, splits: Sequence[str] = ("train", "val")) -> DatasetFile:
    """Read a data set YAML.

    Relative paths in it are joined with its ``path`` key and are relative to the file. The files that come with the
    package (``coco``, ``voc``) are relative to the current directory, for they lie in the installation.

    Args:
        path: a YAML file, the name of one that comes with the package, or ``shapes``, which draws a small data set
            into the user's cache folder.
        splits: the splits that will be read: their folders must exist and hold images, and ``val`` and ``test``
            need the file that ``anno_path`` names.

    Raises:
        DatasetError: the file or a folder is missing, or the file says something impossible.
    """
    if str(path) == "shapes":
        from yolov6_ignite.data.shapes import ensure_shapes_dataset  # drawing code is only needed here

        path = ensure_shapes_dataset()
    file = _locate(Path(path).expanduser())
    content = _read_yaml(file)
    unknown = sorted(str(key) for key in content if key not in KEYS | FOREIGN_KEYS)
    if unknown:
        logger.warning("%s: keys without a meaning here are ignored: %s", file, ", ".join(unknown))

    names = _names(file, content)
    base = Path.cwd() if file.parent == shipped_data_folder().absolute() else file.parent
    root = _text(file, "path", content.get("path") or ".")
    base = base / Path(root).expanduser()
    folders = {split: _folders(file, base, split, content.get(split)) for split in ("train", "val", "test")}
    for split in splits:
        if not folders[split]:
            raise DatasetError(f"{file}: the key '{split}' is missing; it names the folder of the {split} images.")
        for folder in folders[split]:
            require_images(folder, f"{file}: {split}")

    is_coco = content.get("is_coco", False)
    if not isinstance(is_coco, bool):
        raise DatasetError(f"{file}: is_coco must be true or false, not {is_coco!r}.")
    annotations = None
    if content.get("anno_path"):
        annotations = _normal(base / Path(_text(file, "anno_path", content["anno_path"])).expanduser())
    if is_coco and annotations is None:
        raise DatasetError(f"{file}: is_coco: true needs anno_path, the COCO annotation file of the val images.")
    if annotations is not None and {"val", "test"} & set(splits) and not annotations.is_file():
        raise DatasetError(f"{file}: anno_path: {missing_path_message(annotations)}; correct it or leave it out.")
    return DatasetFile(file, names, folders["train"], folders["val"], folders["test"], annotations, is_coco)


def _locate(path: Path) -> Path:
    """The file itself, or the shipped file of that name."""
    shipped = shipped_data_folder()
    if not path.exists() and path.parent == Path() and path.suffix in {"", ".yaml", ".yml"}:
        candidate = (shipped / path.name).with_suffix(".yaml")
        if candidate.is_file():
            return candidate.absolute()
    if path.is_dir():
        raise DatasetError(f"{path} is a folder; give the data set's YAML file.")
    if not path.is_file():
        names = ["shapes", *sorted(file.stem for file in shipped.glob("*.yaml"))]
        raise DatasetError(
            f"data set file: {missing_path_message(path.absolute())}; give a YAML file with the keys train, val and "
            f"names, or one of: {', '.join(names)}."
        )
    return _normal(path.absolute())


def _read_yaml(file: Path) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        raise DatasetError(f"{where}: not valid YAML: {error.problem or error.context}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: not a YAML text file: {error}.") from None
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read: {error.strerror}.") from None
    if not isinstance(content, dict):
        raise DatasetError(f"{file}: expected keys and values (train:, val:, names:), found {type(content).__name__}.")
    return content


def _names(file: Path, content: dict[Any, Any]) -> list[str]:
    """Class names from a list or from a mapping of index to name."""
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DatasetError(f"{file}: names: the indices must be 0 to {len(names) - 1}, each once.")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DatasetError(f"{file}: the key 'names' must list the class names, one or more.")
    for i, name in enumerate(names):
        if isinstance(name, bool) or not isinstance(name, str | int | float) or not str(name).strip():
            raise DatasetError(f"{file}: names: entry {i} is {name!r}, not a name; put it in quotes.")
    count = content.get("nc", len(names))
    if isinstance(count, bool) or not isinstance(count, int):
        raise DatasetError(f"{file}: nc must be the number of classes, not {count!r}.")
    if count != len(names):
        raise DatasetError(f"{file}: nc is {count} but names has {len(names)} entries; correct one, or leave nc out.")
    return [str(name) for name in names]


def _folders(file: Path, base: Path, split: str, value: Any) -> list[Path]:
    if value is None or value == "" or value == []:
        return []
    entries = value if isinstance(value, list) else [value]
    return [_normal(base / Path(_text(file, split, entry)).expanduser()) for entry in entries]


def _text(file: Path, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise DatasetError(f"{file}: {key} must be a path, not {value!r}.")
    return value


def _normal(path: Path) -> Path:
    """Absolute, and resolved as far as the last ``..``; links after it stay (labels are found beside them)."""
    parts = path.absolute().parts
    last = max((i + 1 for i, part in enumerate(parts) if part == ".."), default=0)
    return Path(*parts[:last]).resolve().joinpath(*parts[last:]) if last else Path(*parts)
