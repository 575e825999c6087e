"""The file with the verdict of a reproduction."""

from __future__ import annotations

VERDICT = "verdict.yaml"
"""In the folder of a run that repeats another run: the result of the comparison."""
