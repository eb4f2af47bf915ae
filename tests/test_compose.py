"""The default handlers: their order, and composing with them."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver, EarlyStopping, TensorboardLogger, global_step_from_engine
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter
from yolov6_ignite.handlers import ModelEMA, TrainEvents

from yolov6_ignite import Training, build_training, load_config
from yolov6_ignite.checkpoint import read_checkpoint, write_weights
from yolov6_ignite.errors import ConfigError, StoppedError
from yolov6_ignite.losses import ImageLosses
from yolov6_ignite.models import build_model
from yolov6_ignite.quantization import QuantizationSpec, calibrate, quantized_model


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
    Events.EPOCH_STARTED: ["augmentation_cutoff", "sampler_epoch", "timing", "history", "progress", "stop"],
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


README = Path(__file__).resolve().parents[1] / "README.md"


def readme_event_table() -> dict[str, list[str]]:
    """The rows of the README's table; what stands in brackets behind a name is a comment."""
    section = README.read_text(encoding="utf-8").partition("\n### Events, and who acts on them in which order\n")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section.partition("\n#")[0], flags=re.MULTILINE)
    return {event: re.sub(r" \([^)]*\)", "", names).split(", ") for event, names in rows}


@pytest.fixture
def taught_and_quantised(tiny_recipe: Path, tmp_path: Path) -> list[str]:
    """Overrides for quantisation-aware training of a calibrated network by the one that it was made from."""
    config, names = load_config(tiny_recipe), ["blue", "green"]
    model = build_model(config.model, len(names)).eval()
    spec = QuantizationSpec()
    quantized = quantized_model(model, spec)
    calibrate(quantized, [torch.rand(1, 3, 64, 64)], spec)
    files = {"distill.teacher": (model, None), "quant.calibrated": (quantized, spec.to_dict())}
    for key, (network, quantization) in files.items():
        write_weights(
            tmp_path / f"{key}.pt",
            state=network.state_dict(),
            config=config.model_dump(mode="json"),
            names=names,
            metrics={},
            epoch=1,
            quantization=quantization,
        )
    return ["quant.mode=qat", "quant.freeze_batch_norm_after=1", *(f"{key}={tmp_path / key}.pt" for key in files)]


def test_the_event_table_of_the_readme(
    tiny_recipe: Path, taught_and_quantised: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    training = build(
        tiny_recipe,
        *taught_and_quantised,
        "train.profile=true",
        "train.patience=3",
        "train.time_limit=1",
        "solver.max_gradient_norm=10",
        "eval.plots=true",
        "logging.train_batch_images=true",
        "logging.prediction_images=true",
        "logging.trackers=[mlflow]",
        "checkpoint.last_n_epochs=1",
        "checkpoint.every_iterations=2",
    )
    actual = {
        event.name: ["trackers" if name == "mlflow" else name for name in listeners(training, event)]
        for event in training.engine._event_handlers
        if not event.name.startswith("GET_BATCH_")  # profile's stopwatch alone
    }
    assert readme_event_table() == {event: names for event, names in actual.items() if names}
    assert {name for names in actual.values() for name in names} == {
        "trackers" if name == "mlflow" else name for name in training.handlers
    }


DEFAULT_HANDLERS = sorted({name for names in ORDER.values() for name in names})


class Minimal:
    def attach(self, engine: Engine) -> None:
        pass


@pytest.mark.parametrize("how", ["remove", "replace"])
@pytest.mark.parametrize("name", DEFAULT_HANDLERS)
def test_every_default_handler_can_be_removed_and_replaced_alone(tiny_recipe: Path, name: str, how: str) -> None:
    training = build(
        tiny_recipe,
        "augment.stop_last_n_epochs=1",
        "train.epochs=2",
        "logging.train_batch_images=true",
        "checkpoint.last_n_epochs=1",
        "eval.final_only=true",
    )
    if how == "remove":
        training.handlers.remove(name)
    else:
        training.handlers.replace(name, Minimal())
    result = training.run()
    assert training.finished_epochs == 2
    assert (result.final_weights is not None) == (name != "strip")
    assert (result.metrics_csv is not None) == (name != "history")
    again = build(tiny_recipe, "augment.stop_last_n_epochs=1", "train.epochs=2", "train.resume=auto")
    again.run()  # a finished run stays one


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
        ('{"yolov6_ignite.config:Section": {}}', "is not a class with attach"),
        ('{"os:system": {command: "true"}}', "is not a class with attach"),
        (
            '{"yolov6_ignite.handlers:SamplerEpoch": {}, "yolov6_ignite.handlers:LossMeans": {}}',
            "expected module:Class",
        ),
        ('{"yolov6_ignite.handlers:SamplerEpoch": 3}', "expected arguments"),
        ('{"yolov6_ignite.handlers:SamplerEpoch": {}, name: ema}', "attached already"),
        ('{"yolov6_ignite.handlers:SamplerEpoch": {}, before: nobody}', "there is no handler 'nobody'"),
        ('{"yolov6_ignite.handlers:SamplerEpoch": {}, before: [ema]}', "expected module:Class"),
    ],
)
def test_bad_handler_entries(tiny_recipe: Path, entry: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tiny_recipe, f"handlers=[{entry}]")


class Everywhere:
    """Listens to all events and counts them."""

    def __init__(self, scale: float = 1) -> None:
        self.seen = 0

    def attach(self, engine: Engine) -> None:
        for event in (*ORDER, Events.STARTED):
            engine.add_event_handler(event, self)

    def __call__(self, engine: Engine) -> None:
        self.seen += 1
        engine.state.metrics["seen"] = np.float32(self.seen)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": np.int64(self.seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


def test_an_added_handler_acts_before_anything_is_recorded_saved_or_stopped(tiny_recipe: Path) -> None:
    training = build(tiny_recipe, "checkpoint.last_n_epochs=1", "checkpoint.every_iterations=2", "train.patience=3")
    training.handlers.add("mine", Everywhere())
    recorders = {
        "history",
        "tensorboard",
        "progress",
        "last_checkpoint",
        "epoch_checkpoints",
        "stop",
        "strip",
        "timing",
    }
    recorders |= {"best_checkpoint", "early_stopping", "accumulation"}
    for event in ORDER:
        names = listeners(training, event)
        behind = names[names.index("mine") + 1 :]
        assert not recorders & set(names[: names.index("mine")]), event
        assert not {"evaluation", "loss_means", "learning_rate", "ema", "finite_guard"} & set(behind), event


def test_columns_and_states_of_an_added_handler_are_of_the_same_epoch(tiny_recipe: Path) -> None:
    training = build(tiny_recipe, "train.resume=auto")
    training.handlers.add("mine", Everywhere())
    training.engine.add_event_handler(Events.ITERATION_COMPLETED(once=5), lambda engine: engine.terminate())
    with pytest.raises(StoppedError, match=r"resume with train\.resume=auto"):
        training.run()
    assert '"exit_code": 75' in (training.run_dir / "stopped.json").read_text()
    resumed = build(tiny_recipe, "train.resume=auto")
    resumed.handlers.add("mine", Everywhere())
    assert resumed.handlers["mine"].seen == training.handlers["mine"].seen
    resumed.run()
    with (resumed.run_dir / "metrics.csv").open() as file:
        column = [float(row["seen"]) for row in csv.DictReader(file)]
    saved = read_checkpoint(resumed.run_dir / "weights" / "last_ckpt.pt")["handlers"]["mine"]["seen"]
    assert len(column) == 4
    assert saved == column[-1]


def test_a_number_that_is_not_of_every_epoch_is_not_repeated(tiny_recipe: Path) -> None:
    training = build(tiny_recipe)

    class Once(Minimal):
        def attach(self, engine: Engine) -> None:
            engine.add_event_handler(
                Events.EPOCH_COMPLETED(once=2), lambda e: e.state.metrics.update(mine=1.5, text="x")
            )

    training.handlers.add("once", Once())
    assert [row.get("mine") for row in (training.run(), training.engine.state.history)[1]] == [None, 1.5, None, None]


@pytest.mark.parametrize(
    ("entries", "names"),
    [
        ("[my_handlers:Mine]", ["Mine"]),
        ("[my_handlers:Mine, {my_handlers:Mine: {scale: 2}}]", ["Mine", "Mine_2"]),
        (
            "[{my_handlers:Mine: {scale: 2}, name: first, before: ema}, {my_handlers:Mine: , name: second}]",
            ["first", "second"],
        ),
        ("[{my_handlers:Mine: , after: stop}]", ["Mine"]),
    ],
)
def test_entries_of_the_configuration(tiny_recipe: Path, entries: str, names: list[str]) -> None:
    """The module lies beside the configuration: it is found wherever the command was started."""
    (tiny_recipe.parent / "my_handlers.py").write_text(
        "class Mine:\n    def __init__(self, scale=1): self.scale = scale\n    def attach(self, engine): pass\n"
    )
    sys.modules.pop("my_handlers", None)
    tiny_recipe.write_text(tiny_recipe.read_text() + f"handlers: {entries}\n")
    order = list(build(tiny_recipe).handlers)
    assert [name for name in order if name in names] == names
    if "first" in names:
        assert order.index("first") + 1 == order.index("ema")
    if "after: stop" in entries:
        assert order[order.index("stop") + 1] == "Mine"


@pytest.mark.parametrize("body", ["raise RuntimeError('no luck')", "raise KeyError('key')", "assert False, 'no'"])
def test_an_error_of_any_kind_in_a_constructor_names_the_entry(tiny_recipe: Path, body: str) -> None:
    (tiny_recipe.parent / "fails.py").write_text(
        f"class Fails:\n    def __init__(self):\n        {body}\n    def attach(self, engine): pass\n"
    )
    sys.modules.pop("fails", None)
    tiny_recipe.write_text(tiny_recipe.read_text() + "handlers: [yolov6_ignite.handlers:LossMeans, fails:Fails]\n")
    with pytest.raises(ConfigError, match=r"handlers\.1: fails:Fails: \w+Error: ") as caught:
        build(tiny_recipe)
    assert caught.value.exit_code == 2


def test_the_console_script_and_the_module_import_from_the_same_places(tiny_recipe: Path, tmp_path: Path) -> None:
    """One module beside the configuration, one in the current folder."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    source = "class {0}:\n    def attach(self, engine): print('attached {0}')\n"
    (tiny_recipe.parent / "beside_it.py").write_text(source.format("Beside"))
    (elsewhere / "current.py").write_text(source.format("Current"))
    tiny_recipe.write_text(tiny_recipe.read_text() + "handlers: [beside_it:Beside, current:Current]\n")
    script = Path(sys.executable).with_name("yolov6-ignite")
    for number, start in enumerate(([script, "train"], [sys.executable, "-m", "yolov6_ignite.train"])):
        command = [*start, tiny_recipe, "train.epochs=1", f"train.name=run{number}"]
        done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split("\n")[:2] == ["attached Beside", "attached Current"]


def test_terminate_without_a_handler_for_stops_is_no_finished_run(tiny_recipe: Path) -> None:
    training = build(tiny_recipe)
    training.handlers.remove("stop")
    training.engine.add_event_handler(Events.ITERATION_COMPLETED(once=4), lambda engine: engine.terminate())
    with pytest.raises(StoppedError, match=r"engine\.terminate\(\)"):
        training.run()
    assert not (training.run_dir / "weights" / "final.pt").exists()


def test_the_writer_is_a_summary_writer_of_the_run(tiny_recipe: Path) -> None:
    training = build(tiny_recipe)
    assert isinstance(training.writer, SummaryWriter)
    assert training.engine.state.writer is training.writer
    assert not list(training.run_dir.glob("events.out*"))  # a run that is built only leaves no file
    training.engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: engine.state.writer.add_text("mine", "words", engine.state.epoch)
    )
    training.run()
    log = EventAccumulator(str(training.run_dir)).Reload()
    assert "mine/text_summary" in log.Tags()["tensors"]


def test_stock_handlers_of_ignite_work_on_the_evaluator(tiny_recipe: Path, tmp_path: Path) -> None:
    training = build(tiny_recipe, "eval.interval=1", "eval.loss=true")
    score = lambda engine: engine.state.metrics["mAP@0.50:0.95"]  # noqa: E731
    evaluator = training.evaluator
    stopper = EarlyStopping(
        patience=2, score_function=lambda engine: -training.engine.state.epoch, trainer=training.engine
    )
    evaluator.add_event_handler(Events.COMPLETED, stopper)
    best = Checkpoint(
        {"model": training.model},
        DiskSaver(str(tmp_path / "best"), require_empty=False),
        score_function=score,
        score_name="ap",
        global_step_transform=global_step_from_engine(training.engine),
    )
    evaluator.add_event_handler(Events.COMPLETED, best)
    logger = TensorboardLogger(log_dir=str(tmp_path / "log"))
    logger.attach_output_handler(
        evaluator,
        Events.EPOCH_COMPLETED,
        tag="val",
        metric_names="all",
        global_step_transform=global_step_from_engine(training.engine),
    )
    with pytest.raises(StoppedError, match=r"engine\.terminate\(\)"):
        training.run()
    logger.close()
    assert training.finished_epochs == 3
    assert list((tmp_path / "best").glob("model_*_ap=*.pt"))
    scalars = EventAccumulator(str(tmp_path / "log")).Reload()
    assert {"val/mAP@0.50:0.95", "val/APsmall", "val/iou_loss"} <= set(scalars.Tags()["scalars"])
    assert [event.step for event in scalars.Scalars("val/mAP@0.5")] == [1, 2, 3]
    assert training.evaluator.state.coco.map50 == training.evaluator.state.metrics["mAP@0.5"]


def test_the_prediction_is_there_after_the_backward_pass_and_at_no_other_time(tiny_recipe: Path) -> None:
    training = build(tiny_recipe, "train.epochs=1")
    losses_of = ImageLosses(training.config, len(training.names))
    seen: list[bool] = []

    @training.engine.on(TrainEvents.BACKWARD_COMPLETED)
    def look(engine: Engine) -> None:
        batch = engine.state.batch
        terms = losses_of(engine.state.prediction, batch.targets, batch.images.shape[-2:])
        assert {name: values.shape for name, values in terms.items()} == dict.fromkeys(terms, (len(batch.images),))

    training.engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: seen.append(engine.state.prediction is None)
    )
    training.run()
    assert seen == [True] * 3
    assert training.engine.state.output.keys() == {"iou", "dfl", "cls"}
