import json
from collections import Counter
from itertools import pairwise
from math import exp, log
from pathlib import Path

import pytest
import torch
from torch import nn

from modules.data.base import END, IGNORED, START
from modules.data.dialogue.dialogues import Dialogues
from modules.evaluator.texts.answers import Answers
from modules.evaluator.texts.n_grams import NGrams
from modules.model.seq2seq import Seq2Seq

TEXTS = [[4, 5, 4, END], [4, 5, 6, END], [6, END, IGNORED, IGNORED], [4, END, IGNORED, IGNORED], [5, 4, END, IGNORED]]
SIZE = 8


def bigrams(texts: list[list[int]]) -> list[tuple[int, int]]:
    words = [[START, *(word for word in text if word != IGNORED)] for text in texts]
    return [pair for text in words for pair in pairwise(text)]


def test_bigrams_are_those_of_kneser_and_ney() -> None:
    counts = Counter(bigrams(TEXTS))
    discount = 3 / (3 + 2 * 3)  # of the bigrams, 3 occur once and 3 twice
    assert sorted(counts.values())[:6] == [1, 1, 1, 2, 2, 2]

    def continues(word: int) -> float:
        kept = {
            each: max(sum(second == each for _, second in counts) - discount, 0) / len(counts) for each in range(SIZE)
        }
        return kept[word] + (1 - sum(kept.values())) / SIZE

    def probability(before: int, word: int) -> float:
        total = sum(count for (first, _), count in counts.items() if first == before)
        if not total:
            return continues(word)
        after = sum(first == before for first, _ in counts)
        return max(counts[before, word] - discount, 0) / total + discount * after / total * continues(word)

    model = NGrams(torch.tensor(TEXTS), SIZE, IGNORED)
    assert sum(probability(4, word) for word in range(SIZE)) == pytest.approx(1)
    other = [[4, 7, 5, END], [6, 6, END, IGNORED]]
    unigrams, both = model.sum_nats(torch.tensor(other))
    assert both == pytest.approx(-sum(log(probability(*pair)) for pair in bigrams(other)))
    words, seen = [word for _, word in bigrams(other)], Counter(word for _, word in bigrams(TEXTS))
    assert unigrams == pytest.approx(-sum(log((seen[word] + 1) / (len(bigrams(TEXTS)) + SIZE)) for word in words))


def test_perplexities_and_answers(tmp_path: Path) -> None:
    rows = [{"turns": ["How are you ?", "I am fine .", "Good !"]}, {"turns": ["Bye .", "Good bye !"]}]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 3))
    data = Dialogues(str(tmp_path.parent), tmp_path.name, {"d.jsonl": None}, 1, 20, 1, 9, held_out_every=3)
    torch.manual_seed(0)
    size, split = len(data.readers[0].save()) + 4, data.load("val")
    model = Seq2Seq(size, size, 4, 6, 1, True, 0.0).eval().requires_grad_(False)
    evaluator = Answers(max_tokens=5, num_examples_logged=2)
    evaluator.setup(data)
    first, second = (
        evaluator.update_with_model(model, split.batch(indices, indices))
        for indices in torch.arange(len(split)).chunk(2)
    )
    metrics = evaluator.compute_with_model(model, first + second)
    inputs, targets = split.batch(torch.arange(len(split)), torch.arange(len(split)))
    nats = nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets[0].flatten(), ignore_index=IGNORED)
    assert metrics["perplexity"] == pytest.approx(exp(nats), rel=1e-5)
    assert 1 < metrics["perplexity_bigram"] < metrics["perplexity_unigram"]
    one, again, greedy = (
        each.predict(model, data, ["How are you?"])[0] for each in (evaluator, evaluator, Answers(0.0, max_tokens=5))
    )
    assert one == again
    assert "<" not in one.text + greedy.text
    text = evaluator.artifacts(model, split)["answers.txt"].decode()
    assert text.splitlines()[:2] == ["turn    how are you ?", "person  i am fine ."]
    for wrong in ({"max_tokens": 0}, {"temperature": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Answers(**wrong)
    with pytest.raises(ValueError, match="use data=dailydialog"):
        evaluator.check_data(model)
