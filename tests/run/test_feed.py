"""The feed: the same batches with and without looking ahead, and an error where it belongs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from crowddist.data.sample import Batch
from crowddist.run.feed import Feed


def numbered(count: int, error: Exception | None = None) -> Iterator[Batch]:
    for number in range(count):
        yield Batch(images=torch.full((1, 3, 2, 2), float(number)), draws=torch.tensor([number]), keys=[str(number)])
    if error is not None:
        raise error


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_come_in_order_and_an_error_with_the_step_that_it_is_of(ahead: bool) -> None:
    loaders = {"source": numbered(3, OSError("gone")), "target": numbered(9)}
    feed = Feed(loaders, torch.device("cpu"), ahead=ahead)
    for step in range(3):
        batches = feed.take()
        assert [batch.keys for batch in batches.values()] == [[str(step)]] * 2
        assert batches["target"].images.mean() == step
        feed.look_ahead()  # after the last step the error waits
    with pytest.raises(OSError, match="gone"):
        feed.take()


def test_looking_ahead_reads_one_step_and_else_none() -> None:
    for ahead, left in ((True, "2"), (False, "1")):
        loader = numbered(4)
        feed = Feed({"source": loader}, torch.device("cpu"), ahead=ahead)
        feed.take()
        feed.look_ahead()
        assert next(loader).keys == [left]
