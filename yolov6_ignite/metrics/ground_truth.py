"""What a COCO evaluation compares with, made in memory: nothing is written beside the data."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO

from yolov6_ignite.errors import DatasetError

__all__ = ["CocoGroundTruth", "coco_in_memory"]

logger = logging.getLogger(__name__)

Row = dict[str, Any]
ImageId = int | str
Box = tuple[ImageId, int, list[float], float, int]  # image, category, (left, top, width, height), area, crowd flag


@dataclass(frozen=True)
class CocoGroundTruth:
    """Annotations of the images of one split.

    Attributes:
        coco: these annotations as pycocotools holds them.
        image_ids: COCO image id of every image in the data set's index.
        category_ids: COCO category id of every class.
        names: the classes.
    """

    coco: COCO
    image_ids: list[ImageId]
    category_ids: list[int]
    names: list[str]

    @classmethod
    def from_index(
        cls,
        sizes: NDArray[np.int32],
        labels: Callable[[int], NDArray[np.float32]],
        names: Sequence[str],
    ) -> CocoGroundTruth:
        """Ground truth from labels; the id of an image is its index, the id of a category its class.

        Args:
            sizes: (n, 2) height and width in pixels.
            labels: image to (k, 5) class, centre x, centre y, width, height, normalised.
            names: the classes.
        """
        boxes: list[Box] = []
        for image, (height, width) in enumerate(sizes.tolist()):
            for label, cx, cy, w, h in labels(image).astype(np.float64).tolist():
                box = [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]
                boxes.append((image, int(label), box, box[2] * box[3], 0))
        return cls._of(list(range(len(sizes))), list(range(len(names))), names, boxes)

    @classmethod
    def from_boxes(cls, boxes: Mapping[int, list[tuple[int, list[float]]]], names: Sequence[str]) -> CocoGroundTruth:
        """Ground truth from boxes in pixels; the id of an image is its index, the id of a category its class.

        Args:
            boxes: by image index, 0 to n - 1: class, and left, top, width and height in native pixels.
            names: the classes.
        """
        rows: list[Box] = [
            (image, label, box, box[2] * box[3], 0) for image in range(len(boxes)) for label, box in boxes[image]
        ]
        return cls._of(list(range(len(boxes))), list(range(len(names))), names, rows)

    @classmethod
    def from_json(cls, path: Path, image_stems: Sequence[str], names: Sequence[str]) -> CocoGroundTruth:
        """Ground truth from a COCO annotation file, for the images of a data set.

        Images are found by the stem of their ``file_name``, categories by name. A name that the file lacks takes the
        category at its place in the order of ids, if all other names stand at their places and the counts agree.
        Other images and categories of the file do not count.

        Args:
            path: the annotation file.
            image_stems: file name without folder and suffix, of every image in the data set's index.
            names: the classes.

        Raises:
            DatasetError: the file cannot be read, is damaged, or belongs to other images or classes.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            images = [(Path(image["file_name"]).stem, image["id"]) for image in content["images"]]
            categories = sorted((int(category["id"]), str(category["name"])) for category in content["categories"])
            boxes = [_annotation(number, row) for number, row in enumerate(content["annotations"])]
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read ({error.strerror}); correct or remove anno_path") from error
        except (KeyError, TypeError, ValueError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise DatasetError(f"{path}: is not a COCO annotation file ({reason}); correct anno_path") from error
        image_ids = _match_images(path, images, image_stems)
        category_ids = _match_categories(path, categories, names)
        wanted = set(image_ids)
        boxes = [box for box in boxes if box[0] in wanted]
        foreign = Counter(box[1] for box in boxes if box[1] not in category_ids)
        if foreign:
            logger.warning(
                "%s: %d annotations of the evaluated images are of categories that are not in names (ids %s); "
                "they do not count",
                path,
                foreign.total(),
                ", ".join(map(str, sorted(foreign))),
            )
        return cls._of(image_ids, category_ids, names, [box for box in boxes if box[1] not in foreign])

    @classmethod
    def _of(
        cls,
        image_ids: Sequence[ImageId],
        category_ids: Sequence[int],
        names: Sequence[str],
        boxes: Iterable[Box],
    ) -> CocoGroundTruth:
        annotations = [
            {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": crowd}
            for number, (image, category, box, area, crowd) in enumerate(boxes, start=1)  # to pycocotools 0 is no match
        ]
        categories = [{"id": i, "name": name} for i, name in zip(category_ids, names, strict=True)]
        coco = coco_in_memory([{"id": i} for i in image_ids], categories, annotations)
        return cls(coco, list(image_ids), list(category_ids), list(names))

    def count_by_class(self) -> tuple[list[int], list[int]]:
        """Number of images with each class and of its boxes; crowd regions are not counted."""
        single = [a for a in self.coco.dataset["annotations"] if not a["iscrowd"]]
        boxes = Counter(a["category_id"] for a in single)
        images = Counter(category for category, _ in {(a["category_id"], a["image_id"]) for a in single})
        return [images[i] for i in self.category_ids], [boxes[i] for i in self.category_ids]


def coco_in_memory(images: list[Row], categories: list[Row], annotations: list[Row]) -> COCO:
    """A pycocotools object of rows as an annotation file has them."""
    coco = COCO()
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        coco.createIndex()
    return coco


def _annotation(number: int, row: Row) -> Box:
    """Image, category, box, area and crowd flag of an annotation; without ``area`` it is the box's."""
    box = [float(value) for value in row["bbox"]]
    if len(box) != 4:
        raise ValueError(f"annotations[{number}].bbox has {len(box)} numbers instead of 4")
    area = float(row.get("area", box[2] * box[3]))
    return row["image_id"], int(row["category_id"]), box, area, int(row.get("iscrowd", 0))


def _match_images(path: Path, images: list[tuple[str, ImageId]], stems: Sequence[str]) -> list[ImageId]:
    """Id of every image of the data set."""
    by_stem = dict(images)
    missing = [stem for stem in stems if stem not in by_stem]
    if missing:
        raise DatasetError(
            f"{path}: has no image named {missing[0]!r} ({len(missing)} of {len(stems)} are missing); "
            "anno_path must be of the images that are evaluated"
        )
    in_file, in_dataset = Counter(stem for stem, _ in images), Counter(stems)
    for stem in stems:
        if in_file[stem] > 1 or in_dataset[stem] > 1:
            raise DatasetError(
                f"{path}: several images are named {stem!r} (in the file {in_file[stem]}, in the data set "
                f"{in_dataset[stem]}), so annotations cannot be told apart; rename them or leave anno_path out"
            )
    image_ids = [by_stem[stem] for stem in stems]
    kinds = {type(image_id) for image_id in image_ids}
    if not (kinds <= {int} or kinds <= {str}):  # pycocotools sorts them
        raise DatasetError(f"{path}: image ids must be all whole numbers or all texts; correct the file")
    return image_ids


def _match_categories(path: Path, categories: list[tuple[int, str]], names: Sequence[str]) -> list[int]:
    """Id of every class, from categories sorted by id."""
    ids = {name: category for category, name in categories}
    missing = [name for name in names if name not in ids]
    if not missing:
        return [ids[name] for name in names]
    if len(categories) == len(names) and all(
        name == other or (name not in ids and other not in names)
        for name, (_, other) in zip(names, categories, strict=True)
    ):
        pairs = [f"{name} = {other}" for name, (_, other) in zip(names, categories, strict=True) if name != other]
        logger.warning("%s: categories matched by their order, not by name: %s", path, ", ".join(pairs))
        return [category for category, _ in categories]
    raise DatasetError(
        f"{path}: has no category {', '.join(map(repr, missing))} but {', '.join(map(repr, ids))}; "
        "give the classes these names in the data set file"
    )
