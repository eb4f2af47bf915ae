"""The default handlers: their order, and composing with them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from yolov6_ignite.handlers import ModelEMA, TrainEvents

from yolov6_ignite import Training, build_training, load_config
from yolov6_ignite.checkpoint import read_checkpoint, write_weights
from yolov6_ignite.errors import ConfigError
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
