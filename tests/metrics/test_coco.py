"""The metric against pycocotools' own way through files, alone and on two ranks."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from ignite.engine import Engine, Events
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from yolov6_ignite.metrics import CocoGroundTruth, CocoMeanAveragePrecision, CocoResult, xyxy_to_coco

NAMES = ["cat", "dog", "bird", "unseen"]
SIZE_PX = 200


def label_rows(image: int) -> np.ndarray:
    """Up to 7 boxes of the first three classes; image 3 is empty."""
    random = np.random.default_rng(image)
    count = 0 if image == 3 else int(random.integers(1, 8))
    size = random.uniform(0.05, 0.9, (count, 2))
    centre = size / 2 + random.random((count, 2)) * (1 - size)
    return np.column_stack((random.integers(0, 3, count), centre, size)).astype(np.float32)


def detection_rows(image: int) -> Tensor:
    """Labels, moved, some twice and of another class, with scores of which many are equal."""
    random = np.random.default_rng(1000 + image)
    rows = np.repeat(label_rows(image).astype(np.float64), 3, axis=0)
    half = rows[:, 3:] / 2
    boxes = np.concatenate((rows[:, 1:3] - half, rows[:, 1:3] + half), axis=1) * SIZE_PX
    boxes += random.normal(0, 4, boxes.shape)
    label = np.where(random.random(len(rows)) < 0.8, rows[:, 0], random.integers(0, 4, len(rows)))
    score = random.integers(1, 12, len(rows)) / 12
    order = np.argsort(-score, kind="stable")
    return torch.tensor(np.column_stack((boxes, score, label))[order], dtype=torch.float32)


def make_truth(images: int = 12) -> CocoGroundTruth:
    return CocoGroundTruth.from_index(np.full((images, 2), SIZE_PX, np.int32), label_rows, NAMES)


def evaluate(truth: CocoGroundTruth, images: list[list[int]]) -> CocoResult:
    """The result of batches of these images."""
    metric = CocoMeanAveragePrecision(truth)
    for batch in images:
        metric.update((torch.tensor(batch), [detection_rows(image) for image in batch]))
    return metric.compute()


def reference(truth: CocoGroundTruth, folder: Path, images: int) -> tuple[COCOeval, str]:
    """pycocotools from files, with records rounded one by one; its evaluation and the table that it prints."""
    (folder / "truth.json").write_text(json.dumps(truth.coco.dataset))
    records = [
        {
            "image_id": truth.image_ids[image],
            "category_id": truth.category_ids[int(row[5])],
            "bbox": [round(value, 3) for value in xyxy_to_coco(row[:4]).tolist()],
            "score": round(row[4].item(), 5),
        }
        for image in range(images)
        for row in detection_rows(image)
    ]
    (folder / "found.json").write_text(json.dumps(records))
    printed = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "truth.json"))
        evaluation = COCOeval(coco, coco.loadRes(str(folder / "found.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        with contextlib.redirect_stdout(printed):
            evaluation.summarize()
    return evaluation, printed.getvalue()


def test_equals_pycocotools_from_files(tmp_path: Path) -> None:
    truth = make_truth()
    result = evaluate(truth, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]])
    expected, table = reference(truth, tmp_path, 12)
    assert list(result.stats.values()) == expected.stats.tolist()
    assert 0.1 < result.map50_95 < result.map50 < 0.95
    assert result.table() == table.rstrip("\n")
    assert np.array_equal(result.precision_at_iou50, expected.eval["precision"][0, :, :, 0, 2])


def test_neither_batches_nor_repeated_images_matter() -> None:
    truth = make_truth()
    whole = evaluate(truth, [list(range(12))])
    shuffled = evaluate(truth, [[7, 3, 11], [0], [5, 4, 8, 9], [1, 2], [10, 6], [7, 0]])
    assert shuffled.to_json() == whole.to_json()


def test_three_perfect_detections_are_three(tmp_path: Path) -> None:
    # the reference starts its annotation ids at 0 and finds 0.442 (specification, training 22.7)
    rows = np.array([[0, 0.2, 0.2, 0.2, 0.2], [0, 0.5, 0.5, 0.2, 0.2], [0, 0.8, 0.8, 0.2, 0.2]], np.float32)
    truth = CocoGroundTruth.from_index(np.array([[100, 100]], np.int32), lambda _: rows, ["thing"])
    boxes = [[x - 10, x - 10, x + 10, x + 10, 0.9 - x / 1000, 0] for x in (20, 50, 80)]
    metric = CocoMeanAveragePrecision(truth)
    metric.update(([0], [torch.tensor(boxes)]))
    result = metric.compute()
    assert (result.map50, result.map50_95) == (1.0, 1.0)
    assert (result.per_class[0].f1, result.per_class[0].instances, result.per_class[0].images) == (1.0, 3, 1)


def test_classes_keep_their_own_numbers_when_category_ids_are_in_another_order(tmp_path: Path) -> None:
    truth = make_truth()
    content = dict(truth.coco.dataset)
    ids = [44, 3, 90, 12]
    content["images"] = [{"id": 100 - i, "file_name": f"{i}.jpg"} for i in range(12)]
    content["categories"] = [{"id": ids[i], "name": name} for i, name in enumerate(NAMES)]
    content["annotations"] = [
        {**a, "image_id": 100 - a["image_id"], "category_id": ids[a["category_id"]]} for a in content["annotations"]
    ]
    (tmp_path / "file.json").write_text(json.dumps(content))
    other = CocoGroundTruth.from_json(tmp_path / "file.json", [str(i) for i in range(12)], NAMES)
    batches = [list(range(12))]
    ours, theirs = evaluate(truth, batches), evaluate(other, batches)
    assert [row.name for row in theirs.per_class] == NAMES
    for a, b in zip(ours.per_class, theirs.per_class, strict=True):  # equal scores are in the order of image ids
        assert (a.images, a.instances) == (b.images, b.instances)
        assert a.ap == pytest.approx(b.ap, abs=0.05)
    assert len({round(row.ap, 2) for row in ours.per_class}) == len(NAMES)


def test_best_f1_by_class() -> None:
    result = evaluate(make_truth(), [list(range(12))])
    recall = np.linspace(0, 1, 101)
    for index, row in enumerate(result.per_class[:3]):
        precision = result.precision_at_iou50[:, index]
        assert row.ap50 == pytest.approx(precision.mean())
        assert row.f1 == pytest.approx(max(2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True) if p))
        assert row.f1 == pytest.approx(2 * row.precision * row.recall / (row.precision + row.recall))
    unseen = result.per_class[3]
    assert (unseen.instances, unseen.ap, unseen.f1) == (0, -1.0, -1.0)


def test_tables_and_json() -> None:
    result = evaluate(make_truth(), [list(range(12))])
    header, total, *rows = result.per_class_table().splitlines()
    assert header.split() == ["class", "images", "instances", "P", "R", "F1", "AP50", "AP50:95"]
    assert total.split()[-1] == f"{result.map50_95:.3f}"
    assert [row.split()[0] for row in rows] == NAMES
    assert rows[3].split()[1:] == ["0", "0", "-", "-", "-", "-", "-"]
    assert len({len(line) for line in (header, total, *rows)}) == 1
    numbers = json.loads(json.dumps(result.to_json()))
    assert numbers["mAP@0.50:0.95"] == numbers["AP"] == result.map50_95
    assert numbers["mAP@0.5"] == numbers["AP50"] == result.map50
    assert {"AP75", "APsmall", "APmedium", "APlarge", "AR1", "AR10", "AR100", "ARsmall", "ARmedium", "ARlarge"} < set(
        numbers
    )
    assert set(numbers["per_class"][0]) == {"name", "images", "instances", "precision", "recall", "F1", "AP50", "AP"}


def test_no_detections_score_0() -> None:
    metric = CocoMeanAveragePrecision(make_truth())
    for result in (metric.compute(), evaluate(make_truth(), [[3]])):
        assert (result.map50, result.map50_95, result.stats["AP"]) == (0.0, 0.0, 0.0)
        assert result.per_class[0].ap == result.per_class[0].f1 == 0.0


def test_no_ground_truth_is_said(caplog: pytest.LogCaptureFixture) -> None:
    sizes = np.full((2, 2), SIZE_PX, np.int32)
    truth = CocoGroundTruth.from_index(sizes, lambda _: np.zeros((0, 5), np.float32), NAMES)
    with caplog.at_level(logging.WARNING):
        result = evaluate(truth, [[0, 1]])
    assert "2 images have no labelled boxes" in caplog.text
    assert (result.map50, result.map50_95, result.stats["AP"]) == (0.0, 0.0, -1.0)
    assert "-" in result.per_class_table()


def test_reset_forgets() -> None:
    metric = CocoMeanAveragePrecision(make_truth())
    metric.update((torch.arange(12), [detection_rows(image) for image in range(12)]))
    metric.reset()
    assert metric.compute().map50 == 0.0


@given(st.lists(st.floats(0, 4096, width=32), min_size=4, max_size=4), st.floats(0, 1, width=32))
def test_records_are_rounded_as_python_rounds(box: list[float], score: float) -> None:
    metric = CocoMeanAveragePrecision(make_truth(1))
    row = torch.tensor([[*box, score, 1.0]])
    metric.update(([0], [row]))
    expected = [round(value, 3) for value in xyxy_to_coco(row[0, :4]).tolist()] + [round(row[0, 4].item(), 5), 1.0]
    assert metric._detections[0].tolist() == [expected]


@pytest.mark.parametrize("as_list", [True, False])
def test_attached_it_gives_the_result_and_its_numbers(as_list: bool, capsys: pytest.CaptureFixture[str]) -> None:
    def step(engine: Engine, batch: list[int]) -> tuple[Any, list[Tensor]]:
        return (batch if as_list else torch.tensor(batch)), [detection_rows(image) for image in batch]

    evaluator = Engine(step)
    CocoMeanAveragePrecision(make_truth()).attach(evaluator, "coco")
    seen: list[dict[str, float]] = []
    for event in (Events.EPOCH_COMPLETED, Events.COMPLETED):  # what stock handlers listen to
        evaluator.add_event_handler(event, lambda engine: seen.append(dict(engine.state.metrics)))
    evaluator.run([[0, 1], [2, 3], list(range(4, 12))])
    expected = evaluate(make_truth(), [list(range(12))])
    assert evaluator.state.coco.to_json() == expected.to_json()
    assert seen == [expected.numbers()] * 2
    assert seen[0]["mAP@0.50:0.95"] == expected.map50_95
    assert capsys.readouterr().out == ""


def _evaluate_share(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    # Batches of 2 in turns; image 0 is on both ranks, as a sampler that fills up would have it.
    batches = [[0, 1], [4, 5], [8, 9]] if rank == 0 else [[2, 3], [6, 7], [10, 11], [0]]
    result = evaluate(make_truth(), batches)
    (folder / f"{rank}.json").write_text(json.dumps(result.to_json()))
    dist.barrier()
    dist.destroy_process_group()


def test_two_ranks_find_what_one_process_finds(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_evaluate_share, args=(tmp_path,), nprocs=2)
    serial = json.loads(json.dumps(evaluate(make_truth(), [list(range(12))]).to_json()))
    assert json.loads((tmp_path / "0.json").read_text()) == serial
    assert json.loads((tmp_path / "1.json").read_text()) == serial
