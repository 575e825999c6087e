"""A plan does not import torch's compiler, and code that uses the compiler gets it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.waiting import PATIENCE_S

SCRIPT = """
import sys
import torch
from experiments.cli.main import main
from experiments.plan.without_compiler import without_compiler

assert main(["plan", "model=mlp"]) == 0
assert not [name for name in sys.modules if name.startswith("torch._dynamo")]
attempts = []

@without_compiler
def compile_one():
    attempts.append("torch._dynamo.eval_frame" in sys.modules)
    try:
        return torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1))
    except Exception:  # code of a model may hide that it did not get the compiler
        return None

assert compile_one() == 2
assert attempts == [False, False]
optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
assert "torch._dynamo.eval_frame" in sys.modules
assert torch._dynamo is sys.modules["torch._dynamo"]
"""


@pytest.mark.slow
def test_a_plan_does_without_the_compiler_and_what_uses_it_gets_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
