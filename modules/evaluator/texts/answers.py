"""Perplexity of answers, beside that of n-grams, and sampled answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from modules.data.base import (
    END,
    IGNORED,
    PADDING,
    START,
    UNKNOWN,
    Batch,
    Data,
    HasReferences,
    InputReader,
    Split,
    Tensors,
)
from modules.evaluator.base import Prediction
from modules.evaluator.perplexity import Perplexity
from modules.evaluator.texts.generation import take_source, to_device_of
from modules.evaluator.texts.n_grams import NGrams
from modules.model.base import Seq2SeqDecoder

_CHUNK = 1000


class Answers:
    """Metrics: ``perplexity`` per word of the answers, with the end of each; ``perplexity_unigram`` and ``perplexity_bigram``.

    The n-grams have the same words and are those of the answers of the training split. `predict` samples an answer.
    Source: Vinyals and Le 2015, arXiv:1506.05869, section 4.
    """

    is_component = True
    headline = ("perplexity", "min")

    def __init__(
        self, temperature: float = 0.5, max_tokens: int = 30, seed: int = 0, num_examples_logged: int = 20
    ) -> None:
        """
        Args:
            temperature: divides the logits before sampling; 0 takes the most probable word.
            max_tokens: maximum length of an answer.
            seed: of the sampling, the same for each text.
            num_examples_logged: turns of the split whose answers ``answers.txt`` shows.
        """
        if not 0 <= temperature < float("inf") or max_tokens < 1 or min(seed, num_examples_logged) < 0:
            raise ValueError(
                "Answers wants max_tokens of at least 1, and temperature, seed and num_examples_logged of at least 0, but got "
                f"max_tokens={max_tokens}, temperature={temperature}, seed={seed}, num_examples_logged={num_examples_logged}"
            )
        self.temperature, self.max_tokens, self.seed = temperature, max_tokens, seed
        self.num_examples_logged = num_examples_logged
        self.of_model = Perplexity()
        self.n_grams: NGrams | None = None

    def setup(self, data: Data) -> None:
        """Read the answers of the training split, for the n-grams."""
        self.data, train = self.check_data(data), data.load("train")
        parts = []
        for indices in torch.split(torch.arange(len(train)), _CHUNK):
            _, targets = train.batch(indices, torch.zeros_like(indices))
            parts.append(targets[0])
        longest = max(part.shape[1] for part in parts)
        padded = [nn.functional.pad(part, (0, longest - part.shape[1]), value=IGNORED) for part in parts]
        self.answers, self.n_grams = torch.cat(padded), None

    def update_with_model(self, model: nn.Module, batch: Batch) -> Tensor:
        """Sum over the words of a batch.

        Returns:
            float64 [4]: the words, and their cross entropy in nats by the model, by unigrams and by bigrams.
        """
        inputs, targets = batch
        outputs = model(inputs)
        sums = self.of_model.update(outputs, targets)
        if self.n_grams is None:
            self.n_grams = NGrams(self.answers, outputs.shape[-1], IGNORED)
        return torch.cat([sums, sums.new_tensor(self.n_grams.sum_nats(targets[0].cpu()))])

    def compute_with_model(self, model: nn.Module, sums: Tensor) -> dict[str, float]:
        """Compute the perplexities.

        Raises:
            ValueError: there is no word.
        """
        ends = ("", "_unigram", "_bigram")
        return {
            f"perplexity{end}": self.of_model.compute(torch.stack([sums[0], nats]))["perplexity"]
            for end, nats in zip(ends, sums[1:], strict=True)
        }

    def artifacts(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        """Return ``answers.txt``: turns of the split with the answer of a person and a sampled one."""
        blocks = []
        for number in torch.arange(min(self.num_examples_logged, len(split)))[:, None]:
            inputs, targets = split.batch(number, number)
            pair = self.data.pair(int(targets[1]))
            answer = self._sample(model, inputs, self.data)
            blocks.append(f"turn    {pair.source}\nperson  {pair.references[0]}\nmodel   {answer}\n")
        return {"answers.txt": "\n".join(blocks).encode()} if blocks else {}

    def predict(self, model: nn.Module, data: InputReader, inputs: Sequence[str]) -> list[Prediction]:
        """Sample an answer to each text."""
        answers = [self._sample(model, data.read([text]), self.check_data(data)) for text in inputs]
        return [Prediction(answer, {"answer": answer}) for answer in answers]

    def check_data(self, data: object) -> HasReferences:
        """Return the data as they are.

        Raises:
            ValueError: they have no answers.
        """
        if not isinstance(data, HasReferences):
            raise ValueError(
                f"evaluator Answers wants a data set with answers, but {type(data).__name__} has none; use data=dailydialog"
            )
        return data

    def _sample(self, model: nn.Module, inputs: Tensors, data: HasReferences) -> str:
        if not isinstance(model, Seq2SeqDecoder):
            raise ValueError(
                f"evaluator Answers wants a model with encode() and step(), but {type(model).__name__} has none; "
                "use model=seq2seq_attention"
            )
        generator, device = Generator().manual_seed(self.seed), next(model.parameters()).device
        state, word = model.encode(to_device_of(take_source(inputs), model)), START
        words = list[int]()
        while len(words) < self.max_tokens and word != END:
            scores, state = model.step(state, torch.tensor([word], device=device))
            scores = scores[0].float().cpu()
            scores[[PADDING, START, UNKNOWN]] = -torch.inf
            if self.temperature == 0:
                word = int(scores.argmax())
            else:
                word = int((scores / self.temperature).softmax(0).multinomial(1, generator=generator))
            words.append(word)
        return data.target_text(torch.tensor(words))
