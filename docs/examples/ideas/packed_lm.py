"""A language model on packed sequences: several documents in one row, without attention between them.

Shows: batches that are dicts, and a loss that is a mean over tokens, exact for any number of micro-batches and replicas.
Source: Raffel et al. 2019, arXiv:1910.10683, section 3.5 (packing).
"""

import torch
from lathe.modules.task.base import Evaluation, Loss, StepContext, Task
from torch import Tensor, nn
from torch.nn import functional


class PackedModel(nn.Module):
    """One layer of a transformer that attends to earlier tokens of the same document."""

    def __init__(self, vocab_size: int, row_tokens: int, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.tokens, self.places = nn.Embedding(vocab_size, hidden_size), nn.Embedding(row_tokens, hidden_size)
        self.attention, self.merge = nn.Linear(hidden_size, 3 * hidden_size), nn.Linear(hidden_size, hidden_size)
        self.output = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, vocab_size))

    def forward(self, tokens: Tensor, document: Tensor) -> Tensor:
        """int64 [batch, time], and the number of each token's document in its row, to logits [batch, time, vocab_size]."""
        batch, time = tokens.shape
        states = self.tokens(tokens) + self.places(torch.arange(time, device=tokens.device))
        split = self.attention(states).view(batch, time, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        is_same = (document[:, None, :, None] == document[:, None, None, :]).tril()
        mixed = functional.scaled_dot_product_attention(*split, attn_mask=is_same)
        logits: Tensor = self.output(states + self.merge(mixed.transpose(1, 2).flatten(2)))
        return logits


class PackedLanguageModel(Task):
    """Cross-entropy of the next token within a document."""

    needs = ("inputs",)

    def weight(self, batch: dict[str, Tensor]) -> Tensor:
        return (batch["target"] >= 0).sum()

    def loss(self, model: nn.Module, batch: dict[str, Tensor], context: StepContext) -> Loss:
        logits = model(batch["token"], batch["document"])
        total = functional.cross_entropy(
            logits.flatten(0, 1), batch["target"].flatten(), ignore_index=-1, reduction="sum"
        )
        loss = total / self.weight(batch).clamp(min=1)
        return Loss(loss, {"loss_nats": loss.detach()})

    def evaluate(self, model: nn.Module, batch: dict[str, Tensor], context: StepContext) -> Evaluation:
        return Evaluation(self.loss(model, batch, context).metrics)


class PackedRows:
    """Rows of tokens with the targets; -1 where the next token is of another document."""

    in_memory = True

    def __init__(self, token: Tensor, document: Tensor) -> None:
        next_token, next_document = token.roll(-1, 1), document.roll(-1, 1)
        is_inside = (next_document == document) & (document > 0)
        is_inside[:, -1] = False
        self.columns = {"token": token, "document": document, "target": next_token.where(is_inside, -1)}

    def __len__(self) -> int:
        return len(self.columns["token"])

    def batch(self, indices: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        return {name: column[indices] for name, column in self.columns.items()}


class CountingDocuments:
    """Documents that count in steps of their own, such as 3, 5, 7, packed in the order in which they come."""

    def __init__(self, num_train: int, vocab_size: int, row_tokens: int) -> None:
        self.num_train, self.vocab_size, self.row_tokens = num_train, vocab_size, row_tokens

    def load(self, split: str) -> PackedRows:
        generator = torch.Generator().manual_seed({"train": 0, "val": 1, "test": 2}[split])
        shape = (self.num_train if split == "train" else 100, self.row_tokens)
        token, document = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)  # 0: padding
        for row in range(len(token)):
            first, number = 0, 1
            while True:
                length, start, step = (int(each) for each in torch.randint(4, 12, (3,), generator=generator))
                if first + length > self.row_tokens:
                    break
                token[row, first : first + length] = (start + step * torch.arange(length)) % self.vocab_size
                document[row, first : first + length] = number
                first, number = first + length, number + 1
        return PackedRows(token, document)

    def example(self, batch_size: int) -> dict[str, Tensor]:
        zeros = torch.zeros(batch_size, self.row_tokens, dtype=torch.int64)
        return {"token": zeros, "document": zeros, "target": zeros}
