"""Handlers: one concern of training each, attached to an Ignite engine.

`compose.default_handlers` attaches them in order; each can be used alone.
"""

from yolov6_ignite.handlers.accumulation import GradientAccumulation
from yolov6_ignite.handlers.checkpoints import BestCheckpoint, EpochCheckpoints, LastCheckpoint
from yolov6_ignite.handlers.data_order import AugmentationCutoff, SamplerEpoch
from yolov6_ignite.handlers.early_stopping import EarlyStopping
from yolov6_ignite.handlers.ema import ModelEMA
from yolov6_ignite.handlers.evaluation import EmaBuffersFromRankZero, Evaluation
from yolov6_ignite.handlers.events import (
    StopRequest,
    TrainEvents,
    TrainState,
    is_complete,
    register_train_events,
    require_event,
    train_state,
)
from yolov6_ignite.handlers.finite_guard import FiniteGuard
from yolov6_ignite.handlers.gradient_clipping import GradientClipping
from yolov6_ignite.handlers.handler_set import Handler, HandlerSet
from yolov6_ignite.handlers.history import History, Timing
from yolov6_ignite.handlers.learning_rate import LearningRatePolicy
from yolov6_ignite.handlers.loss_means import LossMeans
from yolov6_ignite.handlers.lr_finder import LearningRateCurve, LearningRateFinder, find_learning_rate
from yolov6_ignite.handlers.plots import EvaluationPlots
from yolov6_ignite.handlers.profile import Profile
from yolov6_ignite.handlers.progress import Progress
from yolov6_ignite.handlers.ptq_calibration import PTQCalibration
from yolov6_ignite.handlers.quantization_aware import QuantizationAwareTraining
from yolov6_ignite.handlers.stop import StopOnRequest
from yolov6_ignite.handlers.strip import StripCheckpoints
from yolov6_ignite.handlers.teacher import TeacherAccuracy
from yolov6_ignite.handlers.tensorboard import PredictionImages, TensorBoardScalars, TrainBatchImages
from yolov6_ignite.handlers.time_limit import TimeLimit
from yolov6_ignite.handlers.trackers import Tracker, TrackerError

__all__ = [
    "AugmentationCutoff",
    "BestCheckpoint",
    "EarlyStopping",
    "EmaBuffersFromRankZero",
    "EpochCheckpoints",
    "Evaluation",
    "EvaluationPlots",
    "FiniteGuard",
    "GradientAccumulation",
    "GradientClipping",
    "Handler",
    "HandlerSet",
    "History",
    "LastCheckpoint",
    "LearningRateCurve",
    "LearningRateFinder",
    "LearningRatePolicy",
    "LossMeans",
    "ModelEMA",
    "PTQCalibration",
    "PredictionImages",
    "Profile",
    "Progress",
    "QuantizationAwareTraining",
    "SamplerEpoch",
    "StopOnRequest",
    "StopRequest",
    "StripCheckpoints",
    "TeacherAccuracy",
    "TensorBoardScalars",
    "TimeLimit",
    "Timing",
    "Tracker",
    "TrackerError",
    "TrainBatchImages",
    "TrainEvents",
    "TrainState",
    "find_learning_rate",
    "is_complete",
    "register_train_events",
    "require_event",
    "train_state",
]
