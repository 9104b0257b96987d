"""What heads ask of a detector, and what its errors cost."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from crowddist.losses.detection import (
    DetectionTargets,
    centre_loss,
    detection_targets,
    offset_loss,
    reach,
    size_loss,
    updated_heads,
)

STRIDE = 4


def heads_of(number, size=(60, 84), seed=0):
    """Heads anywhere in an image, its edges and corners included, of 1 to 60 px."""
    generator = np.random.default_rng(seed)
    heads = np.column_stack([generator.uniform(-0.5, size[1] - 0.5, number),
                             generator.uniform(-0.5, size[0] - 0.5, number),
                             np.exp(generator.uniform(0, 4.1, number))])
    heads[:2, :2] = np.array([[-0.5, -0.5], [size[1] - 1, size[0] - 1]])[:number]
    return torch.tensor(heads, dtype=torch.float32)


def targets_by_loop(heads, cells):
    """Cell by cell and head by head; a log size is nan where several heads are equally near."""
    centres, closeness, log_size, near = (np.zeros((1, *cells)) for _ in range(4))
    offset = np.zeros((2, *cells))
    places = [((x + 0.5) / STRIDE, (y + 0.5) / STRIDE, max(size, 3.0)) for x, y, size in heads.tolist()]
    for row in range(cells[0]):
        for column in range(cells[1]):
            distances = {}
            for x, y, size_px in places:
                down, across, size = row - math.floor(y), column - math.floor(x), size_px / STRIDE
                distances.setdefault(max(abs(down), abs(across)), set()).add(math.log(size_px))
                if abs(down) <= size / 2 and abs(across) <= size / 2:
                    sigma = 0.15 * size + 0.35
                    closeness[0, row, column] = max(closeness[0, row, column],
                                                    math.exp(-(down**2 + across**2) / (2 * sigma**2)))
                if down == across == 0:
                    centres[0, row, column] = 1
                    offset[:, row, column] = y - row - 0.5, x - column - 0.5
            nearest = min(distances, default=9)
            if nearest <= 2:
                near[0, row, column] = 1
                log_size[0, row, column] = next(iter(distances[nearest])) if len(distances[nearest]) == 1 else np.nan
    return centres, closeness, log_size, near, offset


def losses_by_loop(logits, log_size, offset, targets, num_heads):
    """The three sums, term by term."""
    smooth = lambda error: 0.5 * error**2 if abs(error) < 1 else abs(error) - 0.5  # noqa: E731
    centre = size = place = 0.0
    for image in range(len(logits)):
        for row in range(logits.shape[2]):
            for column in range(logits.shape[3]):
                at = (image, 0, row, column)
                p = 1 / (1 + math.exp(-float(logits[at])))
                if targets.centres[at]:
                    centre += (1 - p) ** 2 * -math.log(p)
                    place += sum(smooth(float(offset[image, axis, row, column]
                                              - targets.offset[image, axis, row, column])) for axis in (0, 1))
                else:
                    centre += (1 - float(targets.closeness[at])) ** 4 * p**2 * -math.log(1 - p)
                if targets.near[at]:
                    size += smooth(float(log_size[at]) / float(targets.log_size[at]) - 1)
    return centre / num_heads, size / (25 * num_heads), place / num_heads


def batch_of(numbers, cells=(15, 21)):
    """Answers at random and their targets, in float64."""
    generator = torch.Generator().manual_seed(0)
    size = (cells[0] * STRIDE, cells[1] * STRIDE)
    targets = detection_targets([heads_of(number, size, seed) for seed, number in enumerate(numbers)], cells, STRIDE)
    answers = [torch.randn(len(numbers), channels, *cells, generator=generator, dtype=torch.float64) * spread
               for channels, spread in ((1, 2), (1, 4), (2, 1))]
    return answers, DetectionTargets(*(part.double() for part in targets))


def test_the_targets_of_one_head_by_hand():
    # x = 9.5 and y = 6 lie at 2.5 and 1.625 cells of 4 px: column 2, at its centre, and row 1, an eighth below its
    # centre. 12 px are 3 cells.
    targets = detection_targets([torch.tensor([[9.5, 6.0, 12.0]])], (6, 8), 4)
    assert targets.centres.nonzero().tolist() == [[0, 0, 1, 2]]
    assert targets.offset.nonzero().tolist() == [[0, 0, 1, 2]] and targets.offset[0, :, 1, 2].tolist() == [0.125, 0]
    # sigma = 0.15 * 3 + 0.35 = 0.8; at most 1.5 cells away, so the 3 x 3 cells round the centre.
    side, corner = math.exp(-1 / 1.28), math.exp(-2 / 1.28)
    expected = torch.zeros(6, 8)
    expected[0:3, 1:4] = torch.tensor([[corner, side, corner], [side, 1, side], [corner, side, corner]])
    torch.testing.assert_close(targets.closeness[0, 0], expected)
    near = torch.zeros(6, 8)
    near[0:4, 0:5] = 1
    torch.testing.assert_close(targets.near[0, 0], near)
    torch.testing.assert_close(targets.log_size[0, 0], near * math.log(12))


@pytest.mark.parametrize("number", [1, 2, 9, 60])
def test_the_targets_equal_the_loop_also_at_the_border(number):
    heads = heads_of(number)
    targets = detection_targets([heads], (15, 21), STRIDE)
    centres, closeness, log_size, near, offset = targets_by_loop(heads, (15, 21))
    np.testing.assert_array_equal(targets.centres[0], centres)
    np.testing.assert_array_equal(targets.near[0], near)
    np.testing.assert_allclose(targets.closeness[0], closeness, atol=1e-6)
    np.testing.assert_allclose(targets.offset[0], offset, atol=1e-5)
    told = np.isfinite(log_size)
    np.testing.assert_allclose(targets.log_size[0].numpy()[told], log_size[told], atol=1e-6)
    of_a_head = torch.isin(targets.log_size, torch.cat([heads[:, 2].clamp(min=3.0).log(), torch.zeros(1)]))
    assert of_a_head.all() and targets.centres[0, 0, 0, 0] == 1
    if number > 1:
        assert targets.centres[0, 0, 14, 20] == 1


def test_of_overlapping_heads_the_closer_one_counts():
    heads = torch.tensor([[9.5, 9.5, 40.0], [21.5, 9.5, 6.0]])  # in columns 2 and 5 of row 2
    targets = detection_targets([heads], (5, 9), STRIDE)
    assert targets.centres[0, 0, 2].nonzero().flatten().tolist() == [2, 5]
    torch.testing.assert_close(targets.log_size[0, 0, 2].exp(), torch.tensor([40.0, 40, 40, 40, 6, 6, 6, 6, 1]))
    single = [detection_targets([head[None]], (5, 9), STRIDE).closeness for head in heads]
    assert torch.equal(targets.closeness, torch.maximum(*single))
    # A head of 10 cells reaches the cell 5 from its centre, and no further; the cell between the two lies in the large
    # one alone.
    assert single[0][0, 0, 2, 7] > 0 and single[0][0, 0, 2, 8] == 0
    assert targets.closeness[0, 0, 2, 3] == single[0][0, 0, 2, 3] > 0 and single[1][0, 0, 2, 3] == 0


def test_small_heads_count_as_3_px_and_heads_in_one_cell_are_one_centre():
    targets = detection_targets([torch.tensor([[8.0, 8.0, 0.5], [9.0, 10.0, 0.5]])], (5, 5), STRIDE)
    assert targets.centres.sum() == 1 and targets.near.sum() == 25
    torch.testing.assert_close(targets.log_size[0, 0, 2, 2], torch.tensor(math.log(3)))
    assert targets.offset[0, :, 2, 2].tolist() in ([-0.375, -0.375], [0.125, -0.125])


def test_an_image_without_heads_asks_for_nothing_and_changes_no_other():
    heads = [heads_of(5), torch.zeros(0, 3), heads_of(3, seed=1)]
    together = detection_targets(heads, (15, 21), STRIDE)
    for part, channels in zip(together, (1, 1, 1, 1, 2), strict=True):
        assert part.shape == (3, channels, 15, 21) and part.dtype == torch.float32 and not part[1].any()
    for index in (0, 2):
        for whole, alone in zip(together, detection_targets([heads[index]], (15, 21), STRIDE), strict=True):
            assert torch.equal(whole[index], alone[0])


def test_the_order_of_heads_does_not_matter():
    heads = torch.tensor([[9.5, 9.5, 40.0], [30.0, 9.5, 6.0], [52.0, 40.0, 12.0]])
    for first, second in zip(detection_targets([heads], (15, 21), STRIDE),
                             detection_targets([heads.flip(0)], (15, 21), STRIDE), strict=True):
        assert torch.equal(first, second)


def test_losses_by_hand():
    centres, near = torch.tensor([1.0, 0, 0, 0])[None, None, None], torch.tensor([1.0, 1, 0, 0])[None, None, None]
    closeness, log_size = torch.tensor([1.0, 0.5, 0, 0])[None, None,
                                                         None], torch.tensor([2.0, 2, 0, 0])[None, None, None]
    offset = torch.tensor([[0.25, 0, 0, 0], [-0.5, 0, 0, 0]])[None, :, None]
    targets = DetectionTargets(centres, closeness, log_size, near, offset)
    # p = 0.5 at all four: 0.25 log 2 once for the centre, 1/16 of it for the cell that is half a head, and twice for
    # the others.
    expected = (1 + 1 / 16 + 2) * 0.25 * math.log(2)
    assert centre_loss(torch.zeros(1, 1, 1, 4), targets, 2.0) == pytest.approx(expected / 2)
    # Errors of 3 / 2 - 1 and 6 / 2 - 1: 0.5 * 0.25 and 2 - 0.5; what is far from heads costs nothing.
    assert size_loss(torch.tensor([3.0, 6, 50, -50])[None, None, None], targets,
                     2.0) == pytest.approx((0.125 + 1.5) / 50)
    # Errors of 0.75 down and 1.5 across.
    assert offset_loss(torch.tensor([[1.0, 9, 9, 9], [1, 9, 9, 9]])[None, :, None], targets,
                       2.0) == pytest.approx((0.5 * 0.75**2 + 1) / 2)


def test_doubtful_places_are_no_background():
    """By hand: of the three cells without a centre in the test above, the last costs nothing; centres cost what they
    did.
    """
    centres, closeness = torch.tensor([1.0, 0, 0, 0])[None, None,
                                                      None], torch.tensor([1.0, 0.5, 0, 0])[None, None, None]
    targets = DetectionTargets(centres, closeness, centres, centres, centres.repeat(1, 2, 1, 1))
    logits = torch.zeros(1, 1, 1, 4, requires_grad=True)
    loss = centre_loss(logits, targets, 2.0, doubtful=torch.tensor([True, False, False, True])[None, None, None])
    assert loss.item() == pytest.approx((1 + 1 / 16 + 1) * 0.25 * math.log(2) / 2)
    loss.backward()
    assert (logits.grad != 0).tolist() == [[[[True, True, True, False]]]]
    nothing = reach([torch.zeros(0, 3)], (1, 4), STRIDE)
    assert (not nothing.any()
            and torch.equal(centre_loss(logits, targets, 2.0), centre_loss(logits, targets, 2.0, doubtful=nothing)))


def test_heads_reach_as_far_as_they_change_targets():
    """A head of 3 px reaches the 5 x 5 cells that learn its size, one of 40 px the 11 x 11 cells inside it."""
    cells = reach([torch.tensor([[41.5, 41.5, 3.0]]), torch.tensor([[41.5, 41.5, 40.0]])], (20, 24), STRIDE)
    for one, half in zip(cells, (2, 5), strict=True):
        rows, columns = torch.nonzero(one[0], as_tuple=True)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10 - half, 10 + half, 10 - half, 10 + half)
        assert one.sum() == (2 * half + 1) ** 2


def test_sizes_are_updated_by_hand():
    """Four heads of 40 px by their distances: the detector is sure of 12 px at the first, of 60 px at the second, not
    sure of 12 px at the third, and sure of 1 px at the fourth, which lies in the corner.
    """
    heads = torch.tensor([[9.5, 9.5, 40.0], [21.5, 9.5, 40], [9.5, 1.5, 40], [35.9, 19.9, 40]])
    log_size, confidence = torch.full((5, 9), 3.0, requires_grad=True), torch.full((5, 9), 0.2)
    with torch.no_grad():
        for (row, column), size in {(2, 2): 12, (2, 5): 60, (0, 2): 12, (4, 8): 1}.items():
            log_size[row, column] = math.log(size)
    confidence[2, 2] = confidence[2, 5] = confidence[4, 8] = 0.3
    confidence[0, 2] = 0.29
    updated = updated_heads(heads, log_size, confidence, STRIDE, 0.3)
    torch.testing.assert_close(updated[:, 2], torch.tensor([12.0, 40, 40, 3]))
    assert torch.equal(updated[:, :2], heads[:, :2]) and not updated.requires_grad
    assert updated_heads(heads[:0], log_size, confidence, STRIDE, 0.3).shape == (0, 3)


def test_sizes_are_updated_as_in_the_loop():
    heads, generator = heads_of(60), np.random.default_rng(0)
    log_size, confidence = np.log(generator.uniform(1, 60, (15, 21))), generator.random((15, 21))
    expected = []
    for x, y, size in heads.tolist():
        row, column = (min(max(int((place + 0.5) / STRIDE), 0), end) for place, end in ((y, 14), (x, 20)))
        own = max(math.exp(log_size[row, column]), 3.0)
        expected.append(min(size, own) if confidence[row, column] >= 0.5 else size)
    updated = updated_heads(heads, torch.tensor(log_size).float(), torch.tensor(confidence).float(), STRIDE, 0.5)
    np.testing.assert_allclose(updated[:, 2], expected, rtol=1e-5)
    assert 5 < (updated[:, 2] < heads[:, 2]).sum() < 55


@pytest.mark.parametrize("numbers", [(3,), (7, 0, 40)])
def test_losses_equal_the_loop(numbers):
    (logits, log_size, offset), targets = batch_of(numbers)
    expected = losses_by_loop(logits, log_size, offset, targets, 7)
    result = centre_loss(logits, targets, 7.0), size_loss(log_size, targets,
                                                          7.0), offset_loss(offset, targets, torch.tensor(7.0))
    assert [float(loss) for loss in result] == pytest.approx(expected, rel=1e-9)


def test_gradients_are_right_and_come_from_the_right_cells():
    (logits, log_size, offset), targets = batch_of((4, 0), cells=(6, 7))
    answers = [part.requires_grad_() for part in (logits, log_size, offset)]
    for function, answer in zip((centre_loss, size_loss, offset_loss), answers, strict=True):
        assert torch.autograd.gradcheck(lambda values, function=function: function(values, targets, 3.0), answer)
        function(answer, targets, 3.0).backward()
    assert ((log_size.grad != 0) == (targets.near > 0)).all()
    assert ((offset.grad != 0) == (targets.centres > 0).expand(-1, 2, -1, -1)).all()
    assert (logits.grad[targets.centres > 0] < 0).all() and (logits.grad[targets.centres == 0] >= 0).all()


def test_the_truth_costs_nothing_and_wild_answers_stay_finite():
    _, targets = batch_of((7, 0, 20))
    sure = 40 * (2 * targets.centres - 1)
    assert centre_loss(sure, targets, 1.0) < 1e-9
    assert size_loss(targets.log_size, targets, 1.0) == 0 and offset_loss(targets.offset, targets, 1.0) == 0
    wild = (-1000 * (2 * targets.centres - 1)).requires_grad_()
    loss = centre_loss(wild, targets, 1.0)
    loss.backward()
    assert loss.isfinite() and loss > 1000 and wild.grad.isfinite().all()


def test_without_heads_only_what_is_invented_costs():
    (logits, log_size, offset), targets = batch_of((0, 0))
    confidence = torch.sigmoid(logits)
    torch.testing.assert_close(centre_loss(logits, targets, 1.0), (confidence**2 * -(1 - confidence).log()).sum())
    assert size_loss(log_size, targets, 1.0) == 0 and offset_loss(offset, targets, 1.0) == 0


def test_parts_of_a_batch_add_up_to_the_whole():
    (logits, log_size, offset), targets = batch_of((7, 0, 40))
    for function, answer in ((centre_loss, logits), (size_loss, log_size), (offset_loss, offset)):
        parts = [function(answer[part], DetectionTargets(*(maps[part] for maps in targets)), 47.0)
                 for part in (slice(0, 1), slice(1, 3))]
        torch.testing.assert_close(sum(parts), function(answer, targets, 47.0))
