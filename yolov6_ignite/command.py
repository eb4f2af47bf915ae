"""What every command line shares: logging, and expected errors as one message and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from yolov6_ignite.errors import ConfigError, UserError

__all__ = ["OUT_OF_MEMORY", "USAGE", "log_to_console", "run_command"]

USAGE = ConfigError.exit_code
OUT_OF_MEMORY = 5


def run_command(command: Callable[[], int]) -> int:
    """Runs a command and turns expected errors into a message on stderr and the documented exit code."""
    rank = os.environ.get("RANK", "0")
    try:
        return command()
    except UserError as error:
        if rank == "0" or not error.on_all_ranks:
            print(f"error: {error}" if rank == "0" else f"error on rank {rank}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # a reader such as head has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more to say at the exit
        return 0
    except ImportError as error:
        if error.name == "cv2" or "libGL" in str(error) or "libgthread" in str(error) or "libglib" in str(error):
            print(
                f"error: OpenCV cannot be loaded ({error}); install its system libraries "
                "(Debian and Ubuntu: apt-get install libgl1 libglib2.0-0) or use opencv-python-headless instead",
                file=sys.stderr,
            )
            return USAGE
        raise
    except Exception as error:
        import torch  # only now: a command must be able to say that something is missing before this import

        if not isinstance(error, torch.OutOfMemoryError):
            raise
        print(
            f"error: out of memory ({str(error).splitlines()[0]}); lower data.batch_size or data.image_size",
            file=sys.stderr,
        )
        return OUT_OF_MEMORY


def log_to_console(level: int = logging.INFO) -> None:
    """Sends the package's log to stderr, message only."""
    logging.getLogger("ignite").setLevel(logging.CRITICAL)  # it announces exceptions that are reported anyway
    root = logging.getLogger("yolov6_ignite")
    root.setLevel(level)
    for handler in [handler for handler in root.handlers if type(handler) is logging.StreamHandler]:
        root.removeHandler(handler)  # of a command that ran before in this process
    console = logging.StreamHandler()
    console.setFormatter(logging.Formatter("%(message)s"))
    root.addHandler(console)
