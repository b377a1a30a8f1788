"""Oracle: numbers worked out by hand. Gradients of sums over many rows: test_roi.py."""

import torch

from cvtasks.ops.rows import weighted_rows, window_rows

CPU = torch.device("cpu")


def test_a_sum_of_weighted_rows_and_its_gradient_by_hand() -> None:
    table = torch.tensor([[1.0, 2], [10, 20], [100, 200]], requires_grad=True)
    rows, weights = torch.tensor([[0, 2], [2, 2]]), torch.tensor([[1.0, 0.5], [0.25, 0.75]])
    summed = weighted_rows(table, rows, weights)
    assert summed.tolist() == [[51, 102], [100, 200]]
    (summed * torch.tensor([[1.0], [10.0]])).sum().backward()
    assert table.grad is not None
    # Row 0: 1 x 1; row 1 is read by nobody; row 2: 0.5 x 1 and (0.25 + 0.75) x 10.
    assert table.grad.tolist() == [[1, 1], [0, 0], [10.5, 10.5]]


def test_windows_of_two_levels_by_hand() -> None:
    # Rows 0 1 2 / 3 4 5 of a map of 2 x 3, and row 6 of one of 1 x 1.
    rows, inside = window_rows([(2, 3), (1, 1)], side=3, device=CPU)
    assert rows.shape == inside.shape == (7, 3, 3)
    assert rows[4].tolist() == [[0, 1, 2], [3, 4, 5], [3, 4, 5]]
    assert inside[4].tolist() == [[True] * 3, [True] * 3, [False] * 3]
    assert inside[0].tolist() == [[False] * 3, [False, True, True], [False, True, True]]
    assert rows[2][inside[2]].tolist() == [1, 2, 4, 5]
    assert rows[6][inside[6]].tolist() == [6]
    assert set(rows[6].flatten().tolist()) == {6}
