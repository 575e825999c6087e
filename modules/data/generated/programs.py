"""Short programs and their values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

from modules.data.base import END, IGNORED, PADDING, START, UNKNOWN, Batch, UserInputError
from modules.data.generated.token_problem import TokenProblem
from modules.data.sampling.example_random import ExampleRandom
from modules.data.tensors import check_at_least

Operation = Literal["add", "subtract", "multiply", "if", "assign"]
CHARACTERS: Final = "0123456789+-*=;()> abcdefghijklmnopqrstuvwxyz"
"""The token id of a character is its place in this text, after the ids of `PADDING` to `UNKNOWN`."""
_FIRST = UNKNOWN + 1
_FILL, _START, _END = "\0", "\1", "\2"
_TOKENS = np.full(128, UNKNOWN, np.int64)
_TOKENS[[ord(each) for each in CHARACTERS]] = np.arange(_FIRST, _FIRST + len(CHARACTERS))
_TOKENS[[ord(_FILL), ord(_START), ord(_END)]] = PADDING, START, END
_MAX_FACTOR = 9
_DRAWS_PER_OPERATION = 8


class Programs(TokenProblem):
    """Programs in Python on one line, and the value of their last expression: ``a=12+7;a-30 if 5>8 else a`` has the value 19.

    A model reads the program character by character and continues with the value, whose digits are reversed. Programs have
    numbers of up to ``num_digits`` digits and ``num_operations`` operations. Half of the training programs are smaller: each of
    their numbers, and the program, has a random size.
    Source: Zaremba and Sutskever 2014, arXiv:1410.4615, section 3, without its loops and ``print``; sizes: a mixture as in
    its section 4, "combined".
    """

    is_component = True

    def __init__(
        self,
        num_digits: int,
        num_operations: int,
        operations: Sequence[Operation],
        vocab_size: int,
        num_val: int,
        num_test: int,
    ) -> None:
        """
        Args:
            num_digits: of the largest numbers of a program, 1 to 9.
            num_operations: of a program of full size, 1 to 26.
            operations: which ones a program may have, each as often as the others; "multiply" is by a number up to 9.
            vocab_size: token ids: four special ones and those of `CHARACTERS`.
            num_val: programs of the validation split.
            num_test: programs of the test split.
        """
        check_at_least("Programs", 1, num_digits=num_digits, num_operations=num_operations)
        if num_digits > 9 or num_operations > 26:
            raise ValueError(
                f"Programs wants data.num_digits of at most 9 and data.num_operations of at most 26, but got {num_digits} and "
                f"{num_operations}; lower them"
            )
        if not operations or len(set(operations)) < len(operations):
            raise ValueError(f"Programs wants different data.operations, at least one, but got {list(operations)}")
        if vocab_size != _FIRST + len(CHARACTERS):
            raise ValueError(
                f"Programs has {len(CHARACTERS)} characters and {_FIRST} special token ids, but data.vocab_size={vocab_size}; "
                f"set data.vocab_size={_FIRST + len(CHARACTERS)}"
            )
        super().__init__(num_val, num_test)
        self.num_digits, self.num_operations, self.operations = num_digits, num_operations, tuple(operations)
        self.end_token, self.vocab_size = END, vocab_size
        sizes = {
            "add": 1 + num_digits, "subtract": 1 + num_digits, "multiply": 2, "assign": len("a=;a"),
            "if": len(" if > else ") + 3 * num_digits,
        }  # fmt: skip
        longest = max(sizes[each] for each in self.operations)
        brackets = 2 * (num_operations - 1)
        self.max_program_tokens = num_digits + num_operations * longest + brackets
        factor = _MAX_FACTOR if "multiply" in self.operations else 2
        largest = (10**num_digits - 1) * factor**num_operations
        self.answer_width = len(str(largest)) + ("subtract" in self.operations) + 1

    def make(self, random: ExampleRandom, count: int, split: str) -> Batch:
        """Make programs.

        Returns:
            int64 [count, time]: padding, the program, `START`, the answer, padding; and the next tokens, `IGNORED` outside
            the answer and its end.
        """
        draws = random.integers(2**32, 4 + _DRAWS_PER_OPERATION * self.num_operations).tolist()
        return self._encode([self._write(iter(row), split) for row in draws])

    def read(self, inputs: Sequence[str]) -> Tensor:
        for text in inputs:
            if unknown := "".join(dict.fromkeys(each for each in text if each not in CHARACTERS)):
                raise UserInputError(
                    f"INPUT {text!r} has the characters {unknown!r}, but a program consists of {CHARACTERS!r}; write one such as "
                    "12+34"
                )
        width = max(self.max_program_tokens, *map(len, inputs))
        return torch.from_numpy(_tokens([text.rjust(width, _FILL) + _START for text in inputs]))

    def max_answer_tokens(self, source: str) -> int:
        return self.answer_width

    def answer_text(self, source: str, tokens: Tensor) -> str:
        written = [CHARACTERS[token - _FIRST] if token >= _FIRST else "?" for token in tokens.tolist()]
        return "".join(reversed(written))

    def _write(self, draws: Iterator[int], split: str) -> tuple[str, int]:
        """Return a program and its value."""
        is_small, num_operations = split == "train" and next(draws) % 2 == 0, self.num_operations

        def number() -> int:
            num_digits, drawn = next(draws), next(draws)
            limit: int = 10 ** (1 + num_digits % self.num_digits if is_small else self.num_digits)
            return drawn % limit

        if is_small:
            num_operations = 1 + next(draws) % num_operations
        value, statements = number(), list[str]()
        expression, is_atom = str(value), True
        for _ in range(num_operations):
            operation = self.operations[next(draws) % len(self.operations)]
            side, other, operand = next(draws), number(), expression if is_atom else f"({expression})"
            is_atom = operation == "assign"
            match operation:
                case "add":
                    value += other
                    expression = f"{operand}+{other}" if side % 2 else f"{other}+{operand}"
                case "subtract":
                    value = value - other if side % 2 else other - value
                    expression = f"{operand}-{other}" if side % 2 else f"{other}-{operand}"
                case "multiply":
                    factor = 1 + side % _MAX_FACTOR
                    value *= factor
                    expression = f"{operand}*{factor}"
                case "if":
                    left, right = number(), number()
                    expression = f"{operand} if {left}>{right} else {other}"
                    value = value if left > right else other
                case "assign":
                    name = chr(ord("a") + len(statements))
                    statements.append(f"{name}={expression};")
                    expression = name
        return "".join([*statements, expression]), value

    def _encode(self, programs: Sequence[tuple[str, int]]) -> tuple[Tensor, Tensor]:
        rows = [
            text.rjust(self.max_program_tokens, _FILL)
            + _START
            + (str(value)[::-1] + _END).ljust(self.answer_width, _FILL)
            for text, value in programs
        ]
        tokens = torch.from_numpy(_tokens(rows))
        inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
        targets[:, : self.max_program_tokens] = IGNORED
        return inputs, targets.masked_fill_(targets == PADDING, IGNORED)


def _tokens(rows: Sequence[str]) -> np.ndarray:
    """Return the tokens of texts of the same length, int64 [texts, time]."""
    characters = np.frombuffer("".join(rows).encode("ascii"), np.uint8)
    return _TOKENS[characters].reshape(len(rows), -1)
