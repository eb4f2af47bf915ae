"""``yolov6-ignite export WEIGHTS --format onnx|torchscript|openvino``"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from yolov6_ignite.command import log_to_console, run_command
from yolov6_ignite.errors import ConfigError

__all__ = ["main"]

SUFFIXES = {"onnx": ".onnx", "torchscript": ".torchscript", "openvino": ".xml"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exports weights and checks the file; returns the exit code (0 done, 1 the file differs, 2 usage or weights)."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="yolov6-ignite export",
        description="Write a model for other runtimes. The file is run and compared with the model: in fp32 boxes may "
        "differ by 0.0001 of the image's side and scores by 0.0001, or all by noise that is 100 dB below them; in half "
        "precision by 0.02 or 50 dB. Integers may differ by noise that is 40 dB below (or 3 dB below that of "
        "quantisation itself, where this is more), and 30 dB in half precision or when onnxruntime optimises the file.",
    )
    parser.add_argument("weights", help="best_ckpt.pt, final.pt, ..., or an official .pt (downloaded when missing)")
    parser.add_argument("--format", choices=tuple(SUFFIXES), default="onnx")
    parser.add_argument("--output", type=Path, metavar="FILE", help="must not exist; default: WEIGHTS with its suffix")
    parser.add_argument("--image-size", type=int, nargs="+", metavar="PX", help="side, or height and width")
    batch = parser.add_mutually_exclusive_group()
    batch.add_argument("--batch-size", type=int, metavar="N", help="fixed number of images")
    batch.add_argument("--dynamic-batch", action="store_true", help="any number of images (the default)")
    parser.add_argument(
        "--dynamic-size", action="store_true", help="any image size that the model takes (of TorchScript always)"
    )
    parser.add_argument(
        "--target",
        choices=("tensorrt", "onnxruntime"),
        help="of quantised weights: the runtime whose integers the file has; default: the one that they were made for",
    )
    parser.add_argument(
        "--half", action="store_true", help="half precision; of OpenVINO's weights, of a quantised model's floats"
    )
    parser.add_argument("--simplify", action="store_true", help="fold and fuse nodes with onnxslim")
    parser.add_argument("--preprocess", action="store_true", help="take BGR images in uint8, 0 to 255")
    parser.add_argument(
        "--end2end", choices=("onnxruntime", "tensorrt"), help="suppression in the graph, for this runtime"
    )
    parser.add_argument("--conf-threshold", type=float, help="of --end2end; default: that of the model's evaluation")
    parser.add_argument("--iou-threshold", type=float, help="likewise")
    parser.add_argument("--max-detections", type=int, help="likewise, of an image")
    parser.add_argument("--raw-levels", action="store_true", help="class probabilities and distances, a map a level")
    parser.add_argument("--opset", type=int, help="of ONNX, 18 to 22; default: 18, 19 for --half of quantised weights")
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="compare on its first 16 images; default: on noise"
    )
    options = parser.parse_args(arguments)
    return run_command(lambda: _export(options))


def _export(options: argparse.Namespace) -> int:
    from yolov6_ignite.exporting import ExportSettings, export_model
    from yolov6_ignite.weights import read_weights

    log_to_console(logging.INFO)
    size: list[int] | None = options.image_size
    if size is not None and len(size) > 2:
        raise ConfigError("--image-size: give one side in pixels, or height and width")
    settings = ExportSettings(
        format=options.format,
        image_size=None if size is None else (size[0], size[-1]),
        batch_size=options.batch_size,
        dynamic_size=options.dynamic_size,
        half=options.half,
        simplify=options.simplify,
        preprocess=options.preprocess,
        end2end=options.end2end,
        conf_threshold=options.conf_threshold,
        iou_threshold=options.iou_threshold,
        max_detections=options.max_detections,
        raw_levels=options.raw_levels,
        opset=options.opset,
        target=options.target,
    )
    settings.require_possible()  # before weights are downloaded
    suffix = SUFFIXES[options.format]
    if options.output is not None and options.output.suffix.lower() != suffix:
        raise ConfigError(f"--output: {options.output}: a file of --format {options.format} ends in {suffix}")
    weights = read_weights(options.weights)
    output: Path = options.output or Path(options.weights).with_suffix(suffix)
    done = export_model(weights, output, settings, images=options.images)
    batch = "any" if settings.batch_size is None else settings.batch_size
    height, width = done.image_size
    sides = f"height x width (multiples of {done.size_multiple})" if settings.any_size else f"{height} x {width}"
    size_mb = sum(file.stat().st_size for file in done.files) / 1e6
    print(f"{', '.join(map(str, done.files))}: {size_mb:.1f} MB; images: {batch} x 3 x {sides}, {done.input_type}")
    print(f"outputs: {', '.join(done.output_names)}")
    if done.quantization is not None and done.from_float is not None:
        print(f"quantised to 8 bits for {done.quantization.target}; from floating point: {done.from_float}")
    if done.unoptimized is not None:
        print(f"checked as it stands with {done.unoptimized}")
    print(f"checked {'optimised by onnxruntime ' if done.unoptimized else ''}with {done.agreement}")
    if settings.end2end == "tensorrt":
        print("EfficientNMS_TRT itself was not run: only TensorRT can")
    return 0


if __name__ == "__main__":
    sys.exit(main())
