"""The teacher: how it predicts, and which ones are refused."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from yolov6_ignite.checkpoint import write_weights
from yolov6_ignite.config import Config
from yolov6_ignite.config_file import load_config
from yolov6_ignite.distillation import Teacher, build_teacher
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import Detector, build_model
from yolov6_ignite.quantization import QuantizationSpec, calibrate, quantized_model
from yolov6_ignite.weights import load_model

SMALL = ["model.width_multiple=0.125", "model.depth_multiple=0.1"]
DFL = ["model.head.use_dfl=true", "model.head.reg_max=16"]
NAMES = ["cat", "dog"]
CPU = torch.device("cpu")


def network(config: Config, names: list[str] = NAMES, *, fuse_ab: bool = False) -> Detector:
    torch.manual_seed(0)
    model = build_model(config.model, len(names), fuse_ab=fuse_ab)
    model.names = list(names)
    return model


def teacher_file(
    path: Path, recipe: str = "yolov6m", *overrides: str, names: list[str] = NAMES, fuse_ab: bool = False
) -> str:
    config = load_config(recipe, [*SMALL, *overrides])
    state = network(config, names, fuse_ab=fuse_ab).state_dict()
    write_weights(path, state=state, config=config.model_dump(mode="json"), names=names, metrics={}, epoch=1)
    return f"distill.teacher={path}"


def test_it_predicts_with_the_statistics_of_the_batch_and_keeps_its_own(tmp_path: Path) -> None:
    config = load_config("yolov6m", [*SMALL, teacher_file(tmp_path / "t.pt")])
    teacher = build_teacher(config, network(config), CPU)
    assert isinstance(teacher, Teacher)
    before = copy.deepcopy(teacher.model.state_dict())
    images = torch.rand(2, 3, 64, 64)
    output = teacher(images)
    assert all(torch.equal(value, before[key]) for key, value in teacher.model.state_dict().items())
    assert not output.logits.requires_grad
    assert output.neck_maps is not None

    live = copy.deepcopy(teacher.model).train()
    for module in live.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.track_running_stats = True
    assert torch.equal(live(images).neck_maps[0], output.neck_maps[0])

    decoded = teacher.model.eval()(images)  # to measure its accuracy: with its own statistics
    fresh = network(load_config("yolov6m", SMALL)).half().float().eval()
    torch.testing.assert_close(decoded, fresh(images))


def test_of_a_student_without_batch_norms_it_has_fixed_statistics(tmp_path: Path) -> None:
    config = load_config("yolov6m", [*SMALL, teacher_file(tmp_path / "t.pt")])
    student = network(config).deploy()
    teacher = build_teacher(config, student, CPU)
    assert isinstance(teacher, Teacher)
    images = torch.rand(2, 3, 64, 64)
    expected = load_model(tmp_path / "t.pt").detect_with_output(images)[1]
    torch.testing.assert_close(teacher(images).logits, expected.logits)


def test_direct_distances_beside_distributions_teach_a_student_of_direct_distances(tmp_path: Path) -> None:
    own = load_config("yolov6n", [*SMALL, *DFL, "distill.teacher=absent.pt"])
    model = build_model(own.model, 2, distill_ns=True)
    file = tmp_path / "ns.pt"
    saved = own.model_dump(mode="json")
    write_weights(file, state=model.state_dict(), config=saved, names=NAMES, metrics={}, epoch=1)
    config = load_config("yolov6n", [*SMALL, "quant.mode=qat", f"distill.teacher={file}"])
    teacher = build_teacher(config, network(config), CPU)
    assert isinstance(teacher, Teacher)
    assert teacher(torch.rand(1, 3, 64, 64)).distances.shape[-1] == 4


def test_a_quantised_teacher_is_refused(tmp_path: Path) -> None:
    config = load_config("yolov6m", SMALL)
    spec = QuantizationSpec()
    model = quantized_model(network(config).eval(), spec)
    calibrate(model, [torch.rand(1, 3, 64, 64)], spec)
    saved = {"config": config.model_dump(mode="json"), "names": NAMES, "metrics": {}, "epoch": 1}
    write_weights(tmp_path / "t.pt", state=model.state_dict(), quantization=spec.to_dict(), **saved)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is quantised; take the float network"):
        build_teacher(load_config("yolov6m", [*SMALL, f"distill.teacher={tmp_path / 't.pt'}"]), network(config), CPU)


def test_without_a_teacher_there_is_none() -> None:
    config = load_config("yolov6m", SMALL)
    assert build_teacher(config, network(config), CPU) is None


def test_the_anchor_aided_branch_of_a_teacher_is_left_out(tmp_path: Path) -> None:
    config = load_config("yolov6m", [*SMALL, teacher_file(tmp_path / "t.pt", fuse_ab=True)])
    teacher = build_teacher(config, network(config), CPU)
    assert teacher is not None
    assert teacher(torch.rand(1, 3, 64, 64)).anchor_logits is None


def test_it_may_be_of_another_size(tmp_path: Path) -> None:
    given = teacher_file(tmp_path / "t.pt", "yolov6l", "model.width_multiple=0.25")
    config = load_config("yolov6m", [*SMALL, given])
    student = network(config)
    assert build_teacher(config, student, CPU) is not None
    with_features = load_config("yolov6m", [*SMALL, given, "distill.features=true"])
    with pytest.raises(ConfigError, match=r"distill\.features: the maps of .*t\.pt \(YOLOv6l\) have \[32, 64, 128\]"):
        build_teacher(with_features, student, CPU)


@pytest.mark.parametrize(
    ("recipe", "overrides", "names", "message"),
    [
        ("yolov6m", [], ["a", "b", "c"], "detects 3 classes, but the data set has 2"),
        ("yolov6n", [], NAMES, r"model\.head\.use_dfl: true"),
        ("yolov6m6", [], NAMES, r"has the strides \[8, 16, 32, 64\], the student \[8, 16, 32\]"),
    ],
)
def test_a_teacher_that_cannot_teach(
    recipe: str, overrides: list[str], names: list[str], message: str, tmp_path: Path
) -> None:
    given = teacher_file(tmp_path / "t.pt", recipe, *overrides, names=names)
    config = load_config("yolov6m", [*SMALL, given])
    with pytest.raises(ConfigError, match=message):
        build_teacher(config, network(config), CPU)


def test_a_missing_teacher() -> None:
    config = load_config("yolov6m", [*SMALL, "distill.teacher=absent.pt"])
    with pytest.raises(ConfigError, match=r"absent\.pt: there is no such weight file"):
        build_teacher(config, network(config), CPU)


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("yolov6m", ["train.fuse_ab=true"], "exclude each other"),
        ("yolov6n", [], r"model\.head\.use_dfl: true and model\.head\.reg_max: 16"),
        ("yolov6n6", [], "EfficientRep6 cannot be distilled"),
        ("yolov6_lite/yolov6_lite_s", [], "Lite_EffiBackbone cannot be distilled"),
    ],
)
def test_students_that_cannot_learn_are_refused_when_parsing(recipe: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(recipe, [*overrides, "distill.teacher=x.pt"])


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("yolov6n6", "three levels"),
        ("yolov6_lite/yolov6_lite_s", "three levels"),
        ("repopt/yolov6n_hs", "anchors_init"),
    ],
)
def test_networks_without_an_anchor_aided_head(recipe: str, message: str) -> None:
    overrides = ["model.head.anchors_init=null"] if message == "anchors_init" else []
    with pytest.raises(ConfigError, match=rf"train\.fuse_ab: true needs .*{message}"):
        load_config(recipe, [*overrides, "train.fuse_ab=true"])
