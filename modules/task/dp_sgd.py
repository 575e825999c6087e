"""Supervised learning with differential privacy."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils._pytree import tree_map_only

from modules.data.base import Tree, slice_rows
from modules.objective.base import CountsTargets
from modules.task.base import Loss, StepContext
from modules.task.supervised import Supervised


class DpSgd(Supervised):
    """Stochastic gradient descent that clips the gradient of each example, and adds noise to their sum.

    Batches have a fixed size, as in every training, and each example comes once per epoch. ``train/epsilon`` is that of Opacus'
    accountant of Rényi divergences, which assumes Poisson sampling: each example is in a batch independently, with the
    probability ``batch_size / num_train``. This is how most results are reported. For batches of a fixed size it is no proven
    bound; see Chua et al. 2024, arXiv:2403.17673. The guarantee also needs a secret seed, as the noise follows from it, and it
    does not cover the other metrics, which have no noise.

    The optimizer gets the mean of the clipped gradients with its noise. Source: Abadi et al. 2016, arXiv:1607.00133, algorithm 1.
    """

    is_component = True
    needs = ("inputs", "whole_model", "per_example_gradients")
    recomputed = ("divergences",)

    def __init__(
        self,
        batch_size: int,
        num_train: int,
        clip_norm: float = 1.0,
        noise_multiplier: float = 1.0,
        delta: float | None = 1e-5,
    ) -> None:
        """
        Args:
            batch_size: examples of a step, over all devices.
            num_train: examples of the training split.
            clip_norm: largest norm of the gradient of one example.
            noise_multiplier: standard deviation of the noise of the sum, as a multiple of ``clip_norm``.
            delta: probability with which epsilon may be exceeded, below 1 / ``num_train``; null: epsilon is not computed.
        """
        if not clip_norm > 0:
            raise ValueError(f"DpSgd wants clip_norm above 0, but got {clip_norm}")
        if not noise_multiplier >= 0:
            raise ValueError(f"DpSgd wants noise_multiplier of at least 0, but got {noise_multiplier}")
        if delta is not None and not 0 < delta < 1:
            raise ValueError(f"DpSgd wants delta between 0 and 1, or null, but got {delta}")
        if delta is not None and noise_multiplier == 0:
            raise ValueError("DpSgd: without noise (noise_multiplier=0) epsilon is infinite; set delta=null")
        self.batch_size, self.num_train = batch_size, num_train
        self.clip_norm, self.noise_multiplier, self.delta = clip_norm, noise_multiplier, delta
        self.divergences: tuple[Any, Any] | None = None
        """Orders and Rényi divergences of one step."""

    def check(self, model: nn.Module, batch: Tree) -> None:
        mixing = [f"{name} ({type(each).__name__})" for name, each in model.named_modules() if _mixes_examples(each)]
        if mixing:
            more = f" and {len(mixing) - 3} more" if len(mixing) > 3 else ""
            raise ValueError(
                f"task DpSgd wants a model that treats each example alone, but it keeps statistics of the batch in "
                f"{', '.join(mixing[:3])}{more}; use nn.GroupNorm or nn.LayerNorm there"
            )
        if isinstance(self.objective, CountsTargets) and self.objective.count_targets(batch[1]) is not None:
            raise ValueError(
                f"task DpSgd wants a mean over examples, but objective {type(self.objective).__name__} is a mean over the "
                "targets of the whole batch; use one that is a mean over examples, such as objective=cross_entropy"
            )
        if all(not each.is_meta for each in model.parameters()):
            self._try(model, batch)

    def _try(self, model: nn.Module, batch: Tree) -> None:
        """Compute gradients and losses of random examples."""
        generator = torch.Generator().manual_seed(0)

        def randomise(tensor: Tensor) -> Tensor:
            return torch.randn(tensor.shape, generator=generator).to(tensor) if tensor.is_floating_point() else tensor

        inputs, targets = tree_map_only(Tensor, randomise, batch)
        try:
            self._per_example_gradients(model, inputs, targets)
        except RuntimeError as err:
            raise ValueError(
                f"task DpSgd cannot compute a gradient for each example of this model: {str(err).splitlines()[0]}; use layers "
                "that torch.func.vmap supports"
            ) from err
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            was_training = model.training
            model.eval()  # without dropout
            rows = [slice_rows((inputs, targets), slice(row, row + 1)) for row in range(len(_first(inputs)))]
            alone = torch.stack([self.objective(model(one), target)[0] for one, target in rows]).mean()
            together = self.objective(model(inputs), targets)[0]
            model.train(was_training)
        if not torch.allclose(alone, together, rtol=1e-3, atol=1e-5):
            raise ValueError(
                f"task DpSgd: the loss of a batch ({together:.4g}) is not the mean of the losses of its examples ({alone:.4g}), "
                f"so a layer of the model or objective {type(self.objective).__name__} mixes examples; use others"
            )

    def loss(self, model: nn.Module, batch: Tree, context: StepContext) -> Loss:
        inputs, targets = batch
        gradients, metrics = self._per_example_gradients(model, inputs, targets)
        norms = torch.stack([each.flatten(1).norm(dim=1) for each in gradients.values()]).norm(dim=0)
        factors = (self.clip_norm / norms.clamp_min(1e-12)).clamp(max=1)
        noise_std = self.noise_multiplier * self.clip_norm / max(context.num_rows, len(norms))
        # All micro-batches and replicas add the same noise to their means, so the mean over them has it once.
        generator, named = context.make_generator(), dict(model.named_parameters())
        total = norms.new_zeros(())
        for name, each in gradients.items():
            mean = torch.einsum("b,b...->...", factors, each) / len(norms)
            noise = torch.randn(mean.shape, generator=generator).to(mean) * noise_std
            total = total + (named[name] * (mean + noise)).sum()  # a function whose gradient is the private one
        means = {name: each.mean() for name, each in metrics.items()}
        clipped = {"clipped_fraction": (norms > self.clip_norm).float().mean()}
        epsilon = {} if self.delta is None else {"epsilon": norms.new_tensor(self.compute_epsilon(context.step + 1))}
        return Loss(total, {**means, **clipped, **epsilon})

    def weight(self, batch: Tree) -> Tensor | None:
        return None

    def compute_epsilon(self, num_steps: int) -> float:
        """Epsilon after so many steps. It follows from their number alone, so a resumed run has the same.

        Raises:
            ModuleNotFoundError: Opacus is not installed.
        """
        assert self.delta is not None, "epsilon depends on delta"
        from opacus.accountants import RDPAccountant
        from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

        if self.divergences is None:
            orders = RDPAccountant.DEFAULT_ALPHAS
            rate = self.batch_size / self.num_train
            self.divergences = (
                orders,
                compute_rdp(q=rate, noise_multiplier=self.noise_multiplier, steps=1, orders=orders),
            )
        orders, divergences = self.divergences
        with warnings.catch_warnings():  # that a wider range of orders might give a smaller epsilon
            warnings.simplefilter("ignore")
            epsilon, _ = get_privacy_spent(orders=orders, rdp=divergences * num_steps, delta=self.delta)
        return float(epsilon)

    def _per_example_gradients(
        self, model: nn.Module, inputs: Any, targets: Any
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Gradients of each trained parameter, [examples, ...], and metrics of the objective, [examples]."""
        trained = {name: each.detach() for name, each in model.named_parameters() if each.requires_grad}

        def compute(parameters: dict[str, Tensor], example: Any, target: Any) -> tuple[Tensor, dict[str, Tensor]]:
            one, its_target = tree_map_only(Tensor, lambda each: each[None], (example, target))
            return self.objective(functional_call(model, parameters, (one,)), its_target)

        differentiate = vmap(grad(compute, has_aux=True), (None, 0, 0), randomness="different")
        gradients, metrics = differentiate(trained, inputs, targets)
        return gradients, metrics


def _mixes_examples(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) or (isinstance(module, _InstanceNorm) and module.track_running_stats)


def _first(tree: Any) -> Tensor:
    leaf: Tensor = torch.utils._pytree.tree_leaves(tree)[0]
    return leaf
