"""Variants of one path: CI runs the strongest of them, and with LATHE_LONG=1 the tests run all.

A variant is left out only where others that run take the same lines of Lathe, so that only its values are its own.
"""

from __future__ import annotations

import os

import pytest

IS_LONG = "LATHE_LONG" in os.environ
only_long = pytest.mark.skipif(not IS_LONG, reason="others take the same path in CI: set LATHE_LONG=1")
