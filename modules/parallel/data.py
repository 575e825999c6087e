"""Replicas of the whole model, each with a part of the global batch."""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from modules.parallel.base import EngineConfig, TrainingTask
from modules.parallel.single import Single
from modules.parallel.topology import Degree


class DataParallel(Single):
    """Synchronous data parallelism with torch's reducer, which averages gradients while the backward pass still runs.

    Does not import DeepSpeed. Source: Li et al. 2020, arXiv:2006.15704.
    """

    is_component = True

    def __init__(self, data: Degree) -> None:
        """
        Args:
            data: number of replicas; "auto": one per device.
        """
        self.data = data

    def prepare(self, task: TrainingTask, config: EngineConfig) -> None:
        super().prepare(task, config)
        if config.topology.world > 1 and self.forward.device.type == "cuda" and _has_sparse_gradients(self.model):
            raise ValueError(
                "model.sparse_gradients=true: NCCL sends only dense gradients between GPUs; set model.sparse_gradients=false, "
                "or use one device"
            )
        if config.topology.world > 1:
            device = self.forward.device
            self.trained = DistributedDataParallel(
                self.model,
                device_ids=[device] if device.type == "cuda" else None,
                process_group=self.ranks.groups["data"],
                gradient_as_bucket_view=True,  # one copy of the gradients instead of two
            )

    def weights(self) -> dict[str, Tensor]:
        return super().weights() if self.ranks.number == 0 else {}

    def _no_gradient_sync(self) -> AbstractContextManager[object]:
        if isinstance(self.trained, DistributedDataParallel):
            return self.trained.no_sync()
        return super()._no_gradient_sync()


def _has_sparse_gradients(model: nn.Module) -> bool:
    return any(isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse for module in model.modules())
