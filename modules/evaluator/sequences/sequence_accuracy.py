"""How many tokens, and how many whole sequences, a model gets right."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from modules.data.base import IGNORED, InputReader, Tensors
from modules.data.generated.token_problem import TokenProblem
from modules.evaluator.base import Prediction
from modules.evaluator.sequences.greedy import continue_greedily


class SequenceAccuracy:
    """Metrics: ``accuracy_tokens``, the share of right tokens if all tokens before are given (teacher forcing), and
    ``accuracy_sequences``, the share of examples without a wrong token; a model that generates its most probable tokens gets
    the same examples right.

    The metrics in ``_constant`` are those of the most frequent token of each place, whole sequences as if their tokens were
    independent. Source: Zaremba and Sutskever 2014, arXiv:1410.4615, section 5.
    """

    is_component = True
    headline = ("accuracy_sequences", "max")

    def update(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Count the hits of one batch.

        Args:
            outputs: logits, float [batch, time, classes].
            targets: int64 [batch, time], or `IGNORED`; of several, the first. All batches have the same time.

        Returns:
            float64 [5 + time * columns]: sequences, right ones, tokens, right ones, ``columns`` for each sequence; and how
            often each class, or as the last column the end of the targets, is at each place.

        Raises:
            ValueError: the shapes do not fit.
        """
        classes = targets if isinstance(targets, Tensor) else targets[0]
        if not isinstance(outputs, Tensor) or outputs.dim() != 3 or classes.shape != outputs.shape[:-1]:
            shape = list(outputs.shape) if isinstance(outputs, Tensor) else "a tuple"
            raise ValueError(
                f"SequenceAccuracy wants logits as [batch, time, classes] and targets as [batch, time], but got {shape} and "
                f"{list(classes.shape)}; end the model in one logit per class at each time, or choose evaluator=accuracy"
            )
        count, time, num_classes = outputs.shape
        is_target = classes != IGNORED
        hits = (outputs.argmax(-1) == classes) & is_target
        num_exact = (hits.sum(1) == is_target.sum(1)).sum()
        columns = num_classes + 1
        sizes = hits.new_tensor([count, count * columns], dtype=torch.int64)
        order = torch.argsort(is_target.int(), dim=1, descending=True, stable=True)  # the targets first
        moved = classes.masked_fill(~is_target, num_classes).gather(1, order)
        cells = (moved + columns * torch.arange(time, device=classes.device)).flatten()
        table = torch.zeros(time * columns, dtype=torch.float64, device=classes.device)
        table.index_put_((cells,), table.new_ones(()), accumulate=True)  # bincount is not deterministic on a GPU
        counts = torch.stack([sizes[0], num_exact, is_target.sum(), hits.sum(), sizes[1]])
        return torch.cat([counts.to(torch.float64), table])

    def compute(self, sums: Tensor) -> dict[str, float]:
        """Compute the shares.

        Raises:
            ValueError: the sums contain no target.
        """
        count, num_exact, num_tokens, num_hits, columns = sums[:5].tolist()
        if num_tokens == 0:
            raise ValueError(
                "SequenceAccuracy wants at least 1 target, but got 0; evaluate on a split that is not empty"
            )
        table = sums[5:].view(-1, round(columns / count))
        constant = table[:, :-1].amax(1)
        return {
            "accuracy_tokens": num_hits / num_tokens,
            "accuracy_sequences": num_exact / count,
            "accuracy_tokens_constant": float(constant.sum()) / num_tokens,
            "accuracy_sequences_constant": float((table.amax(1) / count).prod()),
        }

    def predict(self, model: nn.Module, data: InputReader, inputs: Sequence[str]) -> list[Prediction]:
        """Return the answer to each input.

        Raises:
            ValueError: the data set has no answers in tokens.
        """
        if not isinstance(data, TokenProblem):
            raise ValueError(
                f"evaluator SequenceAccuracy answers with data such as data=programs, but {type(data).__name__} has no "
                "answers in tokens; choose another evaluator"
            )
        device, predictions = next(model.parameters()).device, list[Prediction]()
        for text in inputs:
            start: Tensors = tree_map_only(Tensor, lambda each: each.to(device), data.read([text]))
            tokens = continue_greedily(model, start, data.end_token, data.max_answer_tokens(text))[0]
            is_end = tokens == data.end_token
            length = int(is_end.int().argmax()) if is_end.any() else len(tokens)
            answer = data.answer_text(text, tokens[:length].cpu())
            predictions.append(Prediction(answer, {"answer": answer}))
        return predictions
