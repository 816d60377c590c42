from __future__ import annotations

import numpy as np
import pytest

from edgeemo.evaluate.metrics import accuracy, confusion_matrix, jump_rate, macro_f1, per_class_f1


def test_f1_by_hand() -> None:
    truth, answer = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 2])
    confusion = confusion_matrix(truth, answer, 4)
    assert confusion.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    f1 = per_class_f1(confusion)
    assert f1[:3] == pytest.approx([0.8, 0.5, 2 / 3])
    assert np.isnan(f1[3])
    assert macro_f1(confusion) == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)
    assert accuracy(confusion) == pytest.approx(4 / 6)


def test_a_class_never_hit_counts_zero() -> None:
    assert macro_f1(confusion_matrix(np.array([0, 1]), np.array([0, 0]), 2)) == pytest.approx((2 / 3 + 0) / 2)


def test_jump_rate_counts_changes_within_streams_only() -> None:
    assert jump_rate([np.array([1, 1, 2, 2]), np.array([3])]) == pytest.approx(1 / 3)
    assert jump_rate([np.array([3])]) == 0.0
