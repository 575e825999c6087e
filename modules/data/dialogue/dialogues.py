"""Turns of dialogues and the answers to them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from modules.data.base import DataError
from modules.data.dialogue.dialogue_files import check_files, read_split
from modules.data.files import DataFiles
from modules.data.tensors import check_at_least
from modules.data.text.pair_files import Examples
from modules.data.text.paired_texts import PairedTexts
from modules.data.text.sentence_words import Sentences, SentenceWords, normalise


class Dialogues(PairedTexts):
    """Each turn after the first is an answer to the turns before it.

    JSON lines with ``turns``, a list of texts. Sources and answers have one vocabulary. A source is cut to its last
    ``max_tokens`` words; longer answers do not train, but are evaluated.
    """

    is_component = True

    def __init__(
        self,
        root: str,
        folder: str,
        files: Mapping[str, str | None],
        num_context_turns: int,
        vocab_size: int,
        min_count: int,
        max_tokens: int,
        held_out_every: int = 20,
        num_train: int | None = None,
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: folder of this data set.
            files: name to sha256 of one to three files, for training, test and validation, in this order; see `read_split`.
            num_context_turns: turns that the model reads before the answer.
            vocab_size: maximum number of words, with four special tokens.
            min_count: words that occur less often become ``<unk>``.
            max_tokens: of a source, and of an answer to train on.
            held_out_every: of the training file, for splits without a file.
            num_train: the first pairs, to train on; null: all.
        """
        check_files("Dialogues", list(files), held_out_every)
        check_at_least("data", 1, num_context_turns=num_context_turns)
        super().__init__(
            DataFiles(root, folder, files),
            True,
            "words",
            vocab_size,
            vocab_size,
            min_count,
            max_tokens,
            max_tokens,
            num_train,
        )
        self.num_context_turns, self.held_out_every = num_context_turns, held_out_every
        self._read: dict[str, Examples] = {}

    @cached_property
    def readers(self) -> tuple[Sentences, Sentences]:
        train = self._examples("train")
        texts = (text for source, (answer,) in train for text in (source, answer))
        words = SentenceWords(texts, self.source_vocab_size, self.min_count)
        return words, words

    def _examples(self, split: str) -> Examples:
        if split not in self._read:
            rows = read_split(self.files, split, self.held_out_every, ("turns",))
            dialogues = [[turn for each in row["turns"] if (turn := normalise(each))] for row in rows]
            self._read[split] = [
                (self._context(turns[:place]), (turns[place],)) for turns in dialogues for place in range(1, len(turns))
            ]
            if not self._read[split]:
                raise DataError(
                    f"data.folder={self.files.folder!r}: the split '{split}' has no dialogue with two turns; add some"
                )
        return self._read[split]

    def _context(self, turns: list[str]) -> str:
        words = " ".join(turns[-self.num_context_turns :]).split()
        return " ".join(words[-self.max_source_tokens :])
