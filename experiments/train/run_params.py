"""Values that a run records beside its configuration: what follows from it, and what it depends on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from experiments.components.model_signature import ModelInterface
from experiments.plan.plan import Plan
from modules.data.base import Tree
from modules.parallel.topology import AXES


def make_params(
    num_parameters: int, plan: Plan, interface: ModelInterface | None, class_names: list[str] | None, determinism: str, *,
    is_on_gpu: bool,
) -> dict[str, Any]:  # fmt: skip
    """Return the values by name.

    Args:
        num_parameters: of the model.
        plan: of the training.
        interface: the model's inputs and outputs, for its export; None: unknown.
        class_names: of the data; None: it has none.
        determinism: of the configuration.
        is_on_gpu: whether the model is on a GPU.
    """
    export = {
        **(interface.to_dict() if interface else {}),
        "class_names": class_names and [str(name) for name in class_names],
    }
    return {
        # What follows from the configuration, for comparing runs.
        "plan.num_parameters": num_parameters,
        "plan.num_steps": plan.num_steps,
        "plan.num_accumulation": plan.num_accumulation,
        "plan.cpu_threads": torch.get_num_threads(),
        **{f"plan.{axis}": getattr(plan.topology, axis) for axis in AXES},
        # What the last bits of a result depend on.
        "env.torch": torch.__version__,
        "env.device_name": torch.cuda.get_device_name() if is_on_gpu else "cpu",
        "env.cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "env.determinism": determinism,
        **{f"plan.{key}": value for key, value in export.items() if value is not None},
    }


def count_target_tokens(example: Tree) -> int:
    """Return the number of tokens in the targets of one example; 0 if they are not a sequence."""
    targets = example[1] if isinstance(example, tuple) and len(example) == 2 else None
    is_sequence = isinstance(targets, Tensor) and targets.dim() == 2 and not targets.is_floating_point()
    return int(targets.shape[1]) if is_sequence and targets is not None else 0
