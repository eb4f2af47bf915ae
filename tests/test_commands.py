"""The command lines as a user meets them: exit codes, messages, and that nothing of the user's changes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from yolov6_ignite import cli, evaluate, train


def contents(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture
def data(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A copy of the tiny data set that a test may spoil."""
    shutil.copytree(tiny_dataset.parent, tmp_path / "data")
    return tmp_path / "data" / "tiny.yaml"


def refused(arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs the training command and checks that it ends with one clear message."""
    assert train.main(arguments) == code
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("error: ") == 1
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.yaml"], r"missing\.yaml: there is no such configuration file or recipe"),
        (["yolov6n", "train.epochz=3"], "did you mean train.epochs"),
        (["yolov6n", "train.epochs=three"], "train.epochs: input should be a valid integer"),
        (["yolov6n", "data.image_size=-32"], "data.image_size"),
        (["yolov6n_finetune"], "data.dataset is not set"),
        (["yolov6n", "data.dataset=nowhere.yaml"], r"nowhere\.yaml"),
    ],
)
def test_bad_usage(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code = 3 if "nowhere" in message else 2
    refused([*arguments, "train.device=cpu"], code, message, capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path: .\ntrain: images/train\nval: images/val\n", "names"),
        ("path: .\ntrain: images/train\nval: images/val\nnc: 3\nnames: [a, b]\n", "nc.*3.*2"),
        ("path: .\ntrain: images/nothing\nval: images/val\nnames: [a, b]\n", "nothing"),
        ("path: .\ntrain: empty\nval: images/val\nnames: [a, b]\n", "empty"),
        ("path: [\n", "YAML"),
    ],
)
def test_bad_data_set_files(
    data: Path, tiny_recipe: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (data.parent / "empty").mkdir()
    data.write_text(text)
    before = contents(data.parent)
    error = refused([str(tiny_recipe), f"data.dataset={data}"], 3, message, capsys)
    assert str(data) in error or str(data.parent) in error
    assert contents(data.parent) == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2", "field"),
        ("0 0.5 0.5 0.2 abc", "abc|number"),
        ("0 0.5 0.5 0.2 nan", "nan|number"),
        ("7 0.5 0.5 0.2 0.2", "class"),
        ("0.5 0.5 0.5 0.2 0.2", "class"),
        ("0 1.5 0.5 0.2 0.2", "0 *(\\.\\.|and|to) *1|outside"),
        ("0 0.5 0.5 0 0.2", "area"),
    ],
)
def test_bad_label_lines(
    data: Path, tiny_recipe: Path, line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    label = data.parent / "labels" / "train" / "3.txt"
    label.write_text(label.read_text() + line + "\n")
    before = contents(data.parent)
    recipe = [str(tiny_recipe), f"data.dataset={data}"]
    error = refused([*recipe, "data.on_bad_label=error"], 3, message, capsys)
    assert "3.txt:3" in error
    assert train.main([*recipe, "train.epochs=1"]) == 0  # skipped by default, and said so
    assert re.search(r"3\.txt:3", capsys.readouterr().err)
    assert contents(data.parent) == before


@pytest.mark.parametrize("how", ["truncated", "empty", "text"])
def test_bad_images(data: Path, tiny_recipe: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    image = data.parent / "images" / "train" / "4.png"
    image.write_bytes({"truncated": image.read_bytes()[:-2000], "empty": b"", "text": b"not an image"}[how])
    before = contents(data.parent)
    recipe = [str(tiny_recipe), f"data.dataset={data}"]
    refused([*recipe, "data.on_bad_image=error"], 3, r"4\.png", capsys)
    assert train.main([*recipe, "train.epochs=1"]) == 0
    assert "4.png" in capsys.readouterr().err
    assert contents(data.parent) == before


def test_an_output_directory_that_cannot_be_made(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    refused([str(tiny_recipe), f"train.output_dir={tmp_path / 'file'}"], 2, "train.output_dir.*cannot be made", capsys)


def test_bad_weights(tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"some": "thing"}, tmp_path / "foreign.pt")
    missing = "no such (checkpoint|weight file)"
    for weights, message in (("foreign.pt", "not a checkpoint of this project"), ("missing.pt", missing)):
        refused([str(tiny_recipe), f"train.weights={tmp_path / weights}"], 2, message, capsys)
        refused([str(tiny_recipe), f"train.resume={tmp_path / weights}"], 2, message, capsys)


def test_explain_shows_origins_and_the_plan_and_writes_no_run(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([str(tiny_recipe), "train.seed=7", "--explain"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"train\.seed +7 +command line", text)
    assert re.search(r"data\.batch_size +4 +.*tiny\.yaml:4", text)
    assert re.search(r"train\.max_bad_steps +16 +default", text)
    assert "mosaic and mixup: epochs 1 to 3, off from epoch 4" in text
    assert "evaluation after epochs: 2, 4" in text
    assert "3 iterations an epoch, 12 in all; warm-up over the first 180" in text
    assert "GFLOPs" in text
    assert not (tiny_recipe.parent / "runs").exists()


def test_explain_works_without_the_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["yolov6n_finetune", "--explain"]) == 0
    assert "4,646,974" in capsys.readouterr().out


def test_evaluate_gives_what_the_log_printed(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A score threshold of nearly nothing: whatever so short a training has learnt, there are detections to compare.
    overrides = ["train.epochs=40", "eval.interval=10", "solver.lr0=0.2", "eval.conf_threshold=0.00001"]
    assert train.main([str(tiny_recipe), *overrides]) == 0
    error = capsys.readouterr().err
    for word in ("weights:", "plots:", "TensorBoard:", "next:"):
        assert word in error
    run = tiny_recipe.parent / "runs" / "run"
    printed = re.findall(r"mAP@0\.50:0\.95 (\d\.\d+)", error)[-1]
    out = run / "numbers.json"
    # The last checkpoint has the weights of that evaluation whole; stripped ones are rounded to half precision.
    assert evaluate.main([str(run / "weights" / "last_ckpt.pt"), "--json", str(out), "--device", "cpu"]) == 0
    table = capsys.readouterr().out
    assert table.count("Average Precision") == 6
    assert table.count("Average Recall") == 6
    assert "blue" in table
    numbers = json.loads(out.read_text())
    assert f"{numbers['mAP@0.50:0.95']:.4f}" == printed
    assert {"mAP@0.5", "AP75", "ARlarge", "per_class", "speed"} <= numbers.keys()
    assert evaluate.main([str(run / "weights" / "best_ckpt.pt"), "--image-size", "96", "--device", "cpu"]) == 0
    other = tiny_recipe.parent / "other.yaml"
    dataset = Path(re.search(r"dataset: ([^,]+),", tiny_recipe.read_text()).group(1))  # type: ignore[union-attr]
    other.write_text(
        dataset.read_text().replace("[blue, green]", "[a, b, c]").replace("path: .", f"path: {dataset.parent}")
    )
    assert evaluate.main([str(run / "weights" / "best_ckpt.pt"), "--data", str(other)]) == 2
    assert "detects 2 classes" in capsys.readouterr().err


def test_evaluation_with_workers_ends(tiny_recipe: Path) -> None:
    assert train.main([str(tiny_recipe), "train.epochs=1"]) == 0
    weights = tiny_recipe.parent / "runs" / "run" / "weights" / "final.pt"
    command = [sys.executable, "-m", "yolov6_ignite.evaluate", str(weights), "--workers", "2", "--device", "cpu"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert result.returncode == 0, result.stderr
    assert "AP50:95" in result.stdout


def test_a_signal_to_the_whole_group_still_saves(tiny_recipe: Path) -> None:
    command = [sys.executable, "-u", "-m", "yolov6_ignite.train", str(tiny_recipe), "train.epochs=300"]
    overrides = ["eval.final_only=true", "data.workers=2", "train.resume=auto"]
    with subprocess.Popen([*command, *overrides], stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 2/"):
                os.killpg(process.pid, signal.SIGTERM)
                break
        rest = process.stderr.read()
    assert process.returncode == 75, rest
    assert (tiny_recipe.parent / "runs" / "run" / "weights" / "last_ckpt.pt").exists()


def test_one_console_script_has_all_commands(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", str(tiny_recipe), "--explain"]) == 0
    assert "plan" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        cli.main(["frobnicate"])
    assert caught.value.code == 2


def test_missing_system_library_of_opencv_is_explained(tiny_recipe: Path, tmp_path: Path) -> None:
    stub = tmp_path / "stub"
    stub.mkdir()
    (stub / "cv2.py").write_text(
        "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "yolov6_ignite.train", str(tiny_recipe)],
        env={**os.environ, "PYTHONPATH": str(stub)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "apt-get install libgl1" in result.stderr
    assert "Traceback" not in result.stderr


def test_sigterm_ends_with_75_and_the_same_command_goes_on(tiny_recipe: Path) -> None:
    command = [
        sys.executable,
        "-u",
        "-m",
        "yolov6_ignite.train",
        str(tiny_recipe),
        "train.resume=auto",
        "train.epochs=200",
    ]
    overrides = ["eval.final_only=true"]
    with subprocess.Popen([*command, *overrides], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 2/"):
                process.terminate()
                break
        rest = process.stderr.read()
    assert process.returncode == 75
    assert "SIGTERM received; resume with train.resume=auto" in rest
    run = tiny_recipe.parent / "runs" / "run"
    assert json.loads((run / "stopped.json").read_text())["exit_code"] == 75
    epochs_done = len((run / "metrics.csv").read_text().splitlines()) - 1
    resumed = subprocess.run(
        [*command[:-1], f"train.epochs={epochs_done + 1}", *overrides], capture_output=True, text=True, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming" in resumed.stderr
    assert (run / "weights" / "final.pt").exists()
