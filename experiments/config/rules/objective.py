"""The rules of a torch loss as the objective. Imports no torch."""

from __future__ import annotations

from experiments.config.rules.base import ConfigView

PREFIX = "torch.nn.modules.loss."
REDUCTIONS = {"KLDivLoss": ("mean", "batchmean")}
UNFIT = {
    "CTCLoss": "wants the lengths of inputs and targets",
    "LinearCrossEntropyLoss": "has weights of its own, which belong to a model",
}


def _torch_loss(view: ConfigView) -> list[str]:
    """A loss must be a function of outputs and targets, and a mean: a sum would grow with the batch."""
    target, node = view.get("objective._target_", str), view.get("objective", dict)
    if not target.startswith(PREFIX):
        return []
    name = target.removeprefix(PREFIX)
    if name in UNFIT:
        return [f"objective._target_={target} {UNFIT[name]}; write an objective of your own that calls it"]
    reduction, allowed = node.get("reduction", "mean"), REDUCTIONS.get(name, ("mean",))
    if reduction not in allowed or node.get("reduce") is False or node.get("size_average") is False:
        return [f"objective.reduction={reduction} is no mean over the batch; set objective.reduction={allowed[-1]}"]
    return []


RULES = (_torch_loss,)
