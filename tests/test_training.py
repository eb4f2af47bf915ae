"""Whole runs on a tiny data set: handlers and their order, resume, finished runs, composing."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from yolov6_ignite.handlers import ModelEMA, StopRequest, TrainEvents

from yolov6_ignite import Training, build_training, load_config, load_model
from yolov6_ignite.checkpoint import read_checkpoint
from yolov6_ignite.errors import ConfigError, UserError


def build(recipe: Path, *overrides: str) -> Training:
    return build_training(load_config(recipe, overrides))


def listeners(training: Training, event: Any) -> list[str]:
    """Names of the handlers that listen to an event, in order."""
    engine = training.engine
    names = []
    for listener in engine._event_handlers.get(event, []):
        names += [name for name, ids in training.handlers._listeners.items() if id(listener) in ids]
    return names


ORDER = {
    Events.EPOCH_STARTED: ["augmentation_cutoff", "sampler_epoch", "timing", "progress"],
    Events.ITERATION_STARTED: ["learning_rate"],
    TrainEvents.BACKWARD_COMPLETED: ["accumulation"],
    TrainEvents.OPTIMIZER_STEP_STARTED: ["finite_guard"],
    TrainEvents.OPTIMIZER_STEP_COMPLETED: ["ema"],
    Events.ITERATION_COMPLETED: ["loss_means", "train_batch_images", "progress", "last_checkpoint", "stop"],
    Events.EPOCH_COMPLETED: [
        "loss_means",
        "evaluation",
        "timing",
        "history",
        "tensorboard",
        "progress",
        "epoch_checkpoints",
        "last_checkpoint",
        "stop",
    ],
    TrainEvents.VALIDATION_STARTED: ["ema_buffers", "timing"],
    TrainEvents.VALIDATION_COMPLETED: [
        "history",
        "best_checkpoint",
        "best_stop_aug_checkpoint",
        "prediction_images",
        "plots",
    ],
    Events.TERMINATE: ["progress", "last_checkpoint"],
    Events.COMPLETED: ["progress", "strip"],
}


def test_event_table(tiny_recipe: Path) -> None:
    training = build(
        tiny_recipe,
        "logging.train_batch_images=true",
        "checkpoint.last_n_epochs=1",
        "checkpoint.every_iterations=2",
    )
    assert {event: listeners(training, event) for event in ORDER} == ORDER
    counts = dict.fromkeys([*ORDER, Events.STARTED], 0)
    for event in counts:
        training.engine.add_event_handler(event, lambda engine, event: counts.update({event: counts[event] + 1}), event)
    training.run()
    iterations, epochs = 12, 4
    steps = 9  # iterations 0 to 5 alone, then in pairs: the window has grown to 1.5 micro-batches at iteration 6
    assert training.engine.state.optimizer_step == steps
    assert counts == {
        Events.STARTED: 1,
        Events.EPOCH_STARTED: epochs,
        Events.ITERATION_STARTED: iterations,
        TrainEvents.BACKWARD_COMPLETED: iterations,
        TrainEvents.OPTIMIZER_STEP_STARTED: steps,
        TrainEvents.OPTIMIZER_STEP_COMPLETED: steps,
        Events.ITERATION_COMPLETED: iterations,
        Events.EPOCH_COMPLETED: epochs,
        TrainEvents.VALIDATION_STARTED: 2,
        TrainEvents.VALIDATION_COMPLETED: 2,
        Events.TERMINATE: 0,
        Events.COMPLETED: 1,
    }


def test_a_run_leaves_what_the_documentation_says(tiny_recipe: Path) -> None:
    training = build(tiny_recipe, "checkpoint.last_n_epochs=2", "logging.train_batch_images=true")
    training.run()
    run = training.run_dir
    assert {p.name for p in (run / "weights").iterdir()} == {
        "last_ckpt.pt",
        "last_ckpt.previous.pt",
        "best_ckpt.pt",
        "best_stop_aug_ckpt.pt",
        "2_ckpt.pt",
        "3_ckpt.pt",
        "final.pt",
    }
    kinds = {p.name: read_checkpoint(p)["kind"] for p in (run / "weights").iterdir()}
    assert {name for name, kind in kinds.items() if kind == "training"} == {"last_ckpt.pt", "last_ckpt.previous.pt"}
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert list(rows[0])[:6] == [
        "epoch",
        "train/iou_loss",
        "train/dfl_loss",
        "train/cls_loss",
        "val/mAP@0.5",
        "val/mAP@0.50:0.95",
    ]
    assert [row["val/mAP@0.5"] != "" for row in rows] == [False, True, False, True]
    assert list(run.glob("events.out.tfevents*"))
    assert (run / "plots" / "precision_recall.png").stat().st_size > 0
    assert "training took" in (run / "train.log").read_text()
    assert load_config(run / "config.yaml") == training.config
    assert training.config.train.precision == "fp32"
    model = load_model(run / "weights" / "final.pt")
    assert model.names == ["blue", "green"]
    assert model.stride == 32
    assert not model.training
    averaged = training.ema_model.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, averaged[key].half().float() if value.is_floating_point() else averaged[key])
    deployed = load_model(run / "weights" / "final.pt", deploy=True)
    images = torch.rand(1, 3, 64, 64)
    assert torch.allclose(model(images), deployed(images), atol=1e-3)


def state_of(path: Path) -> dict[str, Any]:
    content = read_checkpoint(path / "weights" / "last_ckpt.pt")
    return {key: content[key] for key in ("model", "ema", "optimizer", "handlers", "engine", "epoch", "metrics")}


def assert_equal(ours: Any, expected: Any, where: str = "") -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(ours, expected), where
    elif isinstance(expected, dict):
        assert ours.keys() == expected.keys(), where
        for key in expected:
            assert_equal(ours[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(ours) == len(expected), where
        for index, (a, b) in enumerate(zip(ours, expected, strict=True)):
            assert_equal(a, b, f"{where}.{index}")
    else:
        assert ours == expected, where


def stop_after(training: Training, iteration: int) -> None:
    @training.engine.on(Events.ITERATION_COMPLETED)
    def ask(engine: Engine) -> None:
        if engine.state.iteration == iteration:
            engine.state.stop_request = StopRequest(75, "test")

    training.handlers["stop"].attach(training.engine)  # behind the request
    with pytest.raises(UserError, match="test") as caught:
        training.run()
    assert caught.value.exit_code == 75
    assert (training.run_dir / "stopped.json").read_text() == '{"exit_code": 75, "reason": "test"}\n'


@pytest.fixture(params=[0, 2])
def workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_resume_equals_never_having_stopped(tiny_recipe: Path, workers: int) -> None:
    """At an epoch's end, inside an epoch with an open accumulation window, and behind the cutoff."""
    overrides = [f"data.workers={workers}", "data.batch_size=4", "train.resume=auto"]
    whole = build(tiny_recipe, *overrides, "train.name=whole")
    whole.run()
    stopped = [*overrides, "train.name=stopped"]
    for iteration in (1, 3, 5, 11):
        stop_after(build(tiny_recipe, *stopped), iteration)
    build(tiny_recipe, *stopped).run()
    resumed_dir = whole.run_dir.parent / "stopped"
    assert_equal(state_of(resumed_dir), state_of(whole.run_dir))
    assert (resumed_dir / "metrics.csv").read_bytes() == (whole.run_dir / "metrics.csv").read_bytes()
    assert not (resumed_dir / "stopped.json").exists()
    final = [read_checkpoint(run / "weights" / "best_ckpt.pt")["model"] for run in (resumed_dir, whole.run_dir)]
    assert_equal(*final)


def test_a_finished_run_says_so_and_can_be_extended(tiny_recipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = build(tiny_recipe, "train.resume=auto", "train.epochs=2")
    first.run()
    weights = first.run_dir / "weights"
    before = (weights / "final.pt").read_bytes()
    with caplog.at_level("INFO", "yolov6_ignite"):
        build(tiny_recipe, "train.resume=auto", "train.epochs=2").run()
    assert "is finished (2 epochs): nothing to resume" in caplog.text
    assert (weights / "final.pt").read_bytes() == before
    (weights / "final.pt").unlink()  # cut off while stripping
    build(tiny_recipe, "train.resume=auto", "train.epochs=2").run()
    assert read_checkpoint(weights / "final.pt")["epoch"] == 2
    longer = build(tiny_recipe, f"train.resume={weights / 'last_ckpt.pt'}", "train.epochs=3")
    longer.run()
    assert longer.run_dir.resolve() == first.run_dir.resolve()
    assert read_checkpoint(weights / "final.pt")["epoch"] == 3


def test_a_damaged_last_checkpoint_falls_back(tiny_recipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = build(tiny_recipe, "train.resume=auto", "train.epochs=2")
    first.run()
    last = first.run_dir / "weights" / "last_ckpt.pt"
    last.write_bytes(last.read_bytes()[:5000])
    resumed = build(tiny_recipe, "train.resume=auto", "train.epochs=2")
    assert resumed.finished_epochs == 1
    assert "damaged" in caplog.text


def test_another_run_is_not_resumed(tiny_recipe: Path) -> None:
    first = build(tiny_recipe, "train.resume=auto", "train.epochs=2")
    first.run()
    with pytest.raises(ConfigError, match=r"solver\.lr0: 0\.02 -> 0\.5"):
        build(tiny_recipe, "train.resume=auto", "train.epochs=3", "solver.lr0=0.5")
    with pytest.raises(ConfigError, match=r"model\.width_multiple"):
        build(tiny_recipe, "train.resume=auto", "train.epochs=3", "model.width_multiple=0.125")
    with pytest.raises(ConfigError, match="stripped"):
        build(tiny_recipe, f"train.resume={first.run_dir / 'weights' / 'final.pt'}", "train.epochs=3")
    allowed = ["train.epochs=3", "eval.interval=1", "logging.interval=3", "checkpoint.every_iterations=1"]
    assert build(tiny_recipe, "train.resume=auto", *allowed).finished_epochs == 2


def test_a_replaced_handler_goes_on_from_the_checkpoint(tiny_recipe: Path) -> None:
    stop_after(build(tiny_recipe, "train.resume=auto"), 5)
    saved = read_checkpoint(tiny_recipe.parent / "runs" / "run" / "weights" / "last_ckpt.pt")
    resumed = build(tiny_recipe, "train.resume=auto")
    resumed.handlers.replace("ema", ModelEMA(resumed.model))
    assert resumed.handlers["ema"].updates == saved["handlers"]["ema"]["updates"] > 0

    @resumed.engine.on(Events.STARTED)
    def check(engine: Engine) -> None:
        assert_equal(dict(engine.state.ema_model.state_dict()), dict(saved["ema"]))
        engine.terminate(skip_completed=True)

    resumed.run()


def test_without_an_average_a_resumed_run_keeps_its_own_weights(tiny_recipe: Path) -> None:
    stop_after(build(tiny_recipe, "train.resume=auto"), 5)
    saved = read_checkpoint(tiny_recipe.parent / "runs" / "run" / "weights" / "last_ckpt.pt")
    resumed = build(tiny_recipe, "train.resume=auto")
    resumed.handlers.remove("ema")

    @resumed.engine.on(Events.STARTED)
    def check(engine: Engine) -> None:
        assert_equal(dict(resumed.model.state_dict()), dict(saved["model"]))
        engine.terminate(skip_completed=True)

    resumed.run()


def test_an_image_that_turns_bad_ends_the_run(tiny_dataset: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_dataset.parent, tmp_path / "data")
    training = build(tiny_recipe, f"data.dataset={tmp_path / 'data' / 'tiny.yaml'}", "data.on_bad_image=error")
    for image in (tmp_path / "data" / "images" / "train").iterdir():
        image.write_bytes(b"")
    with pytest.raises(UserError) as caught:
        training.run()
    assert caught.value.exit_code == 3
    assert '"exit_code": 3' in (training.run_dir / "stopped.json").read_text()


DEFAULT_HANDLERS = sorted({name for names in ORDER.values() for name in names})


@pytest.mark.parametrize("name", DEFAULT_HANDLERS)
def test_every_default_handler_can_be_removed(tiny_recipe: Path, name: str) -> None:
    training = build(
        tiny_recipe,
        "augment.stop_last_n_epochs=1",
        "train.epochs=2",
        "logging.train_batch_images=true",
        "checkpoint.last_n_epochs=1",
        "eval.final_only=true",
    )
    training.handlers.remove(name)
    if name == "last_checkpoint":
        training.handlers.remove("strip")  # it makes final.pt of the last checkpoint
    training.run()
    assert training.finished_epochs == 2


def test_a_refused_run_leaves_nothing_behind(tiny_recipe: Path, tmp_path: Path) -> None:
    for overrides in (["data.dataset=nowhere.yaml"], ["train.weights=nothing.pt"], ['handlers=[{"no:Where": {}}]']):
        with pytest.raises(UserError):
            build(tiny_recipe, *overrides)
    assert not (tmp_path / "runs").exists()
    build(tiny_recipe, "train.resume=auto", "train.epochs=1").run()
    before = sorted(p.name for p in (tmp_path / "runs" / "run").iterdir())
    with pytest.raises(ConfigError, match="not the run"):
        build(tiny_recipe, "train.resume=auto", "train.epochs=2", "train.seed=5")
    assert sorted(p.name for p in (tmp_path / "runs" / "run").iterdir()) == before


def test_a_checkpoint_outside_a_run_is_not_resumed_into_its_surroundings(tiny_recipe: Path, tmp_path: Path) -> None:
    first = build(tiny_recipe, "train.epochs=1")
    first.run()
    copy = tmp_path / "keep" / "last.pt"
    copy.parent.mkdir()
    copy.write_bytes((first.run_dir / "weights" / "last_ckpt.pt").read_bytes())
    with pytest.raises(ConfigError, match="not in the `weights` folder of a run"):
        build(tiny_recipe, f"train.resume={copy}", "train.epochs=2")
    assert sorted(p.name for p in copy.parent.iterdir()) == ["last.pt"]


def test_a_run_starts_once(tiny_recipe: Path) -> None:
    training = build(tiny_recipe, "train.epochs=1")
    training.run()
    with pytest.raises(RuntimeError, match="started before"):
        training.run()


def test_new_runs_take_the_next_free_name(tiny_recipe: Path) -> None:
    names = [build(tiny_recipe).run_dir.name for _ in range(3)]
    assert names == ["run", "run2", "run3"]


def test_start_from_weights(tiny_recipe: Path, tiny_dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = build(tiny_recipe, "train.epochs=1")
    first.run()
    final = first.run_dir / "weights" / "final.pt"
    second = build(tiny_recipe, f"train.weights={final}")
    given = read_checkpoint(final)["model"]
    for key, value in second.model.state_dict().items():
        assert torch.allclose(value.float(), given[key].float())
    more_classes = tiny_dataset.with_name("more.yaml")
    more_classes.write_text(tiny_dataset.read_text().replace("green]", "green, red]"))
    with caplog.at_level("INFO", "yolov6_ignite"):
        build(tiny_recipe, f"train.weights={final}", f"data.dataset={more_classes}")
    assert "6 entries fresh: detect.cls_preds.0.bias" in caplog.text
    with pytest.raises(ConfigError, match="of another model"):
        build(tiny_recipe, f"train.weights={final}", "model.width_multiple=0.25")


def test_handlers_can_be_replaced_removed_and_configured(tiny_recipe: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "my_handlers.py").write_text(
        "from ignite.engine import Events\n"
        "class Notifier:\n"
        "    seen = []\n"
        "    def __init__(self, channel): self.channel = channel\n"
        "    def attach(self, engine): engine.add_event_handler(Events.EPOCH_COMPLETED, self)\n"
        "    def __call__(self, engine): self.seen.append((self.channel, engine.state.epoch))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    training = build(tiny_recipe, 'handlers=[{"my_handlers:Notifier": {channel: "#train"}}]', "train.epochs=2")

    class FrozenAverage(ModelEMA):
        def __call__(self, engine: Engine) -> None:
            self.updates += 1

    average = FrozenAverage(training.model)
    before = {key: value.clone() for key, value in average.model.state_dict().items()}
    training.handlers.replace("ema", average)
    training.handlers.remove("prediction_images")
    training.run()
    assert training.handlers["Notifier"].seen == [("#train", 1), ("#train", 2)]
    assert average.updates > 0
    saved = read_checkpoint(training.run_dir / "weights" / "final.pt")["model"]
    for key, value in before.items():  # evaluation, checkpoints and strip used the replacement
        assert torch.equal(saved[key], value.half() if value.is_floating_point() else value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('{"nowhere:Thing": {}}', "cannot be imported"),
        ('{"yolov6_ignite.handlers:Nothing": {}}', "has no Nothing"),
        ('{"no_colon": {}}', "expected module:Class"),
        ('{"yolov6_ignite.handlers:SamplerEpoch": {speed: 3}}', "unexpected keyword argument 'speed'"),
        ('{"yolov6_ignite.config:Section": {}}', "has no attach"),
    ],
)
def test_bad_handler_entries(tiny_recipe: Path, entry: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tiny_recipe, f"handlers=[{entry}]")


def test_non_finite_gradients_end_the_run(tiny_recipe: Path) -> None:
    training = build(
        tiny_recipe, "train.max_bad_steps=2", "data.batch_size=10", "train.epochs=4", "augment.stop_last_n_epochs=0"
    )
    step: Callable[..., Any] = training.engine._process_function

    def poisoned(engine: Engine, batch: Any) -> Any:
        if engine.state.iteration > 1:
            batch.targets[:, 2:] *= float("nan")
        return step(engine, batch)

    training.engine._process_function = poisoned
    with pytest.raises(UserError, match="not finite for 2 optimizer steps in a row") as caught:
        training.run()
    assert caught.value.exit_code == 4
    assert torch.load(training.run_dir / "bad_batch_rank0.pt", weights_only=True)["targets"].isnan().any()
    assert all(torch.isfinite(v).all() for v in training.model.state_dict().values())
