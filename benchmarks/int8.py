"""What integers save: detection in fp32 and in 8 bits by onnxruntime, on the CPU.

    python benchmarks/int8.py [--weights best_ckpt.pt ...] [--recipes yolov6n yolov6s] [--threads 1] [--simplify]

Both files are exported as `yolov6-ignite export` does, and run in turns. One line a network: the median process CPU
time and wall time of an image, the ratios, file sizes, and the share of convolutions that are computed in integers.
Recipes have random weights and noise as images: neither changes the time. Weights that are calibrated already are
measured with their own integers, for onnxruntime, and in floating point with the quantisers left away.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import onnx
import onnxruntime
import torch

from yolov6_ignite.config_file import load_config
from yolov6_ignite.exporting.graphs import DetectionGraph
from yolov6_ignite.exporting.onnx_file import build_onnx
from yolov6_ignite.exporting.quantized_graph import quantized_for, with_exported_quantizers
from yolov6_ignite.exporting.settings import ExportSettings
from yolov6_ignite.models import Detector, build_model
from yolov6_ignite.quantization import QuantizationSpec, calibrate, quantized_model, set_mode
from yolov6_ignite.weights import read_weights

CLASSES = 80
WARM_UP = 3


class Cost(NamedTuple):
    """Seconds of one image."""

    cpu: float
    wall: float


def main() -> None:
    """Measures and prints one line a network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="*", default=["yolov6n", "yolov6s"])
    parser.add_argument("--weights", nargs="*", default=[], help="weight files, instead of recipes")
    parser.add_argument("--size", type=int, default=640, help="pixels")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--simplify", action="store_true", help="as of yolov6-ignite export")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"batch 1, {args.size} px, {args.threads} threads, onnxruntime {onnxruntime.__version__}")
    for name in args.weights or args.recipes:
        print(measure(name, args), flush=True)


def measure(name: str, args: argparse.Namespace) -> str:
    """Both precisions in turns."""
    settings = ExportSettings(batch_size=1, simplify=args.simplify, target="onnxruntime")
    floats, integers, spec = both_forms(name, settings, args)
    fp32_file = exported(floats, settings, args.size)
    int8_file = exported(integers, settings, args.size, spec)
    runs = [runner(file, args) for file in (fp32_file, int8_file)]
    rows = [[cost(run) for run in runs] for _ in range(args.repeats + WARM_UP)][WARM_UP:]
    cpu = [statistics.median(row[i].cpu for row in rows) for i in range(2)]
    wall = [statistics.median(row[i].wall for row in rows) for i in range(2)]
    done, all_of_them = integer_convolutions(int8_file, args.threads)
    return (
        f"{Path(name).stem:16} CPU {cpu[0] * 1e3:6.1f} -> {cpu[1] * 1e3:6.1f} ms ({cpu[0] / cpu[1]:.2f} times), "
        f"wall {wall[0] * 1e3:6.1f} -> {wall[1] * 1e3:6.1f} ms ({wall[0] / wall[1]:.2f} times), "
        f"{len(fp32_file) / 1e6:.1f} -> {len(int8_file) / 1e6:.1f} MB, "
        f"{done} of {all_of_them} convolutions in integers"
    )


def both_forms(
    name: str, settings: ExportSettings, args: argparse.Namespace
) -> tuple[Detector, Detector, QuantizationSpec]:
    """A network in floating point and with its quantisers as nodes: those of calibrated weights are their own."""
    torch.manual_seed(0)
    weights = read_weights(name) if args.weights else None
    model = build_model(load_config(name).model, CLASSES).eval() if weights is None else weights.build()
    if weights is not None and weights.quantization is not None:
        spec = settings.quantization_of(weights.quantization)
        assert spec is not None
        integers = quantized_for(model, spec)
        floats = copy.deepcopy(integers)
        set_mode(floats, "off")
        return with_exported_quantizers(floats), with_exported_quantizers(integers), spec
    spec = QuantizationSpec(method="max", target="onnxruntime")
    quantized = quantized_model(model, spec)
    calibrate(quantized, [torch.rand(1, 3, args.size, args.size)], spec)
    return model.deploy(), with_exported_quantizers(quantized_for(quantized, spec)), spec


def exported(model: Detector, settings: ExportSettings, size: int, spec: QuantizationSpec | None = None) -> bytes:
    """The content of an ONNX file."""
    return build_onnx(DetectionGraph(model).eval(), settings, (size, size), {}, spec).SerializeToString()


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """As few threads as wanted, which sleep while they wait."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def runner(file: bytes, args: argparse.Namespace) -> Callable[[], object]:
    """One pass of one image."""
    session = onnxruntime.InferenceSession(file, session_options(args.threads), providers=["CPUExecutionProvider"])
    images = {"images": torch.rand(1, 3, args.size, args.size).numpy()}
    return lambda: session.run(None, images)


def cost(run: Callable[[], object]) -> Cost:
    """Time of one call; that of the process does not count what others do on the machine."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Cost(time.process_time() - cpu, time.perf_counter() - wall)


def integer_convolutions(file: bytes, threads: int) -> tuple[int, int]:
    """Convolutions that onnxruntime computes in integers, and all."""
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads)
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        kinds = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    return kinds["QLinearConv"], kinds["QLinearConv"] + kinds["Conv"] + kinds["FusedConv"]


if __name__ == "__main__":
    main()
