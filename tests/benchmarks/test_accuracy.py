"""Metrics of `benchmarks.accuracy`, on answers whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.accuracy.metrics import ACCURACY, AGREEMENT, SENTENCE_COSINE, character_errors, edits
from benchmarks.accuracy.report import page_rows
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


def test_the_page_shows_the_setting_of_each_quantizer_that_came_out_best() -> None:
    found = {
        "ort-minmax": {"metric": 0.9, "sqnr_db": 9.0},
        "ort-percentile": {"metric": 0.9, "sqnr_db": 10.0},
        "nncf": {"failed": "quantize: no"},
        "ours": {"metric": 0.8, "sqnr_db": 8.0},
    }
    cost = {"float": 0.95, "processor_seconds": 1.0, "peak_mib": 2.0}
    methods = {name: result if "failed" in result else result | cost for name, result in found.items()}
    (_, accuracy), _ = page_rows({"models": {"digits": {"methods": methods}}})
    assert accuracy == [["digits", "accuracy", "0.950", "0.900; 10.0 dB", "", "0.800; 8.0 dB", ""]]
