"""The name of a reproduction's verdict in a run folder."""

from __future__ import annotations

VERDICT = "verdict.yaml"
"""In the folder of a run that repeats another: what came of the comparison."""
