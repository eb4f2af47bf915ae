"""A change that means to change no number changes none."""

from __future__ import annotations

import json
from pathlib import Path

import golden_trace
import pytest

STORED = Path(__file__).parent / "data" / "golden_trace.json"


def test_fifty_steps_are_as_they_were() -> None:
    """Bit for bit where processor and libraries are those of the stored trace; its beginning anywhere else."""
    stored, found = json.loads(STORED.read_text()), golden_trace.pinned_trace()
    assert found["traces"].keys() == stored["traces"].keys()
    for name, expected in stored["traces"].items():
        ours = found["traces"][name]
        assert len(ours["steps"]) == len(expected["steps"]) == golden_trace.STEPS
        for step, (terms, known) in enumerate(zip(ours["steps"][:5], expected["steps"][:5], strict=True)):
            assert terms == pytest.approx(known, rel=1e-4), (name, step)
    if found["environment"] == stored["environment"]:
        assert found["traces"] == stored["traces"]
