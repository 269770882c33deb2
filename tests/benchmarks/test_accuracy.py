"""Metrics of `benchmarks.accuracy`, on answers whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.accuracy.metrics import ACCURACY, AGREEMENT, SENTENCE_COSINE, character_errors, edits
from benchmarks.accuracy.sentences import _word_pieces


@pytest.mark.parametrize(
    ("left", "right", "count"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("abc", "bc", 1)]
)
def test_edits_are_the_fewest_that_make_one_text_the_other(left: str, right: str, count: int) -> None:
    assert edits(left, right) == edits(right, left) == count


def one_hot(classes: list[int]) -> dict[str, np.ndarray]:
    return {"y": np.eye(4, dtype="float32")[classes][None]}


def test_character_errors_are_counted_after_repeats_and_blanks_are_dropped() -> None:
    metric = character_errors(["", "a", "b", " "])
    tally = metric.start()
    for classes, label in (([1, 1, 0, 1, 2, 3], "aab"), ([0, 2, 2, 0], "ba")):
        tally.update({}, label, {}, one_hot(classes))
    assert tally.value == 1 / 5


def test_accuracy_compares_with_labels_and_agreement_with_float() -> None:
    accuracy, agreement = ACCURACY.start(), AGREEMENT.start()
    for label, expected, actual in ((0, [2.0, 1], [3.0, 1]), (0, [1.0, 2], [0.0, 1])):
        answers = {"y": np.array([expected])}, {"y": np.array([actual])}
        accuracy.update({}, label, *answers)
        agreement.update({}, label, *answers)
    assert (accuracy.value, agreement.value) == (0.5, 1.0)


def test_tokens_that_are_not_there_do_not_count_for_a_sentences_embedding() -> None:
    expected, actual = np.zeros((1, 3, 2)), np.zeros((1, 3, 2))
    expected[0, :2], actual[0, :2] = [[1, 0], [0, 1]], [[2, 0], [0, 2]]
    actual[0, 2] = [-100, 0]
    tally = SENTENCE_COSINE.start()
    tally.update({"attention_mask": np.array([[1, 1, 0]])}, None, {"y": expected}, {"y": actual})
    assert tally.value == pytest.approx(1)


def test_words_are_split_into_the_longest_pieces_of_the_vocabulary() -> None:
    vocabulary = {"[UNK]": 0, "quant": 1, "##ize": 2, "##i": 3, "q": 4}
    assert _word_pieces("quantize", vocabulary) == [1, 2]
    assert _word_pieces("zebra", vocabulary) == [0]
