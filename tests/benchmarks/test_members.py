"""All members of an ensemble at once, against one full forward pass a member."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from crowddist.models.backbones.encoder import Encoder
from crowddist.models.backbones.table import BACKBONES
from crowddist.models.config import CounterConfig
from crowddist.models.counter import Counter, build_counter
from crowddist.models.decoder import Decoder
from crowddist.models.masksembles import Masksembles
from tests.benchmarks.harness import compare

pytestmark = pytest.mark.benchmark

SHARE_OF_FLOPS = 0.9  # The goal: at least this share of what the count of operations allows.
LARGEST_MEMORY = 0.3  # The goal: at most this share of the memory that a batch tiled four times takes.
NUM_TILES = 4

MEMORY_CODE = """
import sys
from pathlib import Path
import torch
from crowddist.models.config import CounterConfig
from crowddist.models.counter import build_counter

def peak_kib():
    # Not getrusage: its maximum starts at the parent's size.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

def run(height, width):
    images = torch.rand(1, 3, height, width)
    if sys.argv[1] == "members":
        return counter.members(counter.encode(images))
    return counter(images.repeat({tiles}, 1, 1, 1), torch.arange({tiles}))

torch.set_num_threads(1)
torch.manual_seed(0)
counter = build_counter(CounterConfig(num_masks={tiles})).eval()
with torch.inference_mode():
    run(64, 64)
    before = peak_kib()
    run(1088, 1920)
print(peak_kib() - before)
"""


def _compact() -> Counter:
    torch.manual_seed(0)
    return build_counter(CounterConfig(num_masks=3)).eval()


def _light() -> Counter:
    """VGG-16 with two small convolutions behind it, as the light decoder of C-3-Framework."""
    torch.manual_seed(0)
    encoder = Encoder(BACKBONES["vgg16"], "counter")
    trunk = nn.Sequential(nn.Conv2d(encoder.channels, 128, 3, padding=1), nn.ReLU())
    rest = nn.Sequential(nn.Conv2d(128, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 1, 1), nn.ReLU())
    counter = Counter(encoder=encoder, decoder=Decoder(trunk, rest, channels=128), masks=Masksembles(128, 8, 2.0, 0),
                      dropout=None, num_members=8, orientation=None)
    return counter.to(memory_format=torch.channels_last).eval()


def _full_forwards(counter: Counter, images: Tensor) -> Tensor:
    return torch.stack([counter(images, torch.full((len(images),), member)) for member in range(counter.num_members)])


def _encoder_once(counter: Counter, images: Tensor) -> Tensor:
    return counter.members(counter.encode(images))


def _num_flops(run: Callable[[Counter, Tensor], Tensor], counter: Counter, images: Tensor) -> int:
    with FlopCounterMode(display=False) as counted:
        run(counter, images)
    return counted.get_total_flops()


@pytest.mark.parametrize(("build", "size", "least_ratio"), [
    pytest.param(_compact, (256, 320), 1.0, id="compact-3"), pytest.param(_light, (128, 160), 5.0, id="light-8"),
])
def test_encoder_once_is_as_fast_as_its_operations(build: Callable[[], Counter], size: tuple[int, int],
                                                   least_ratio: float) -> None:
    counter, images = build(), torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))

    def agree(peer: Tensor, ours: Tensor) -> bool:
        same = (torch.equal(peer.mean(0), ours.mean(0))
                and torch.equal(peer.std(0, correction=0), ours.std(0, correction=0)))
        return same and bool(ours.std(0).max() > 0)

    with torch.inference_mode():
        flop_ratio = _num_flops(_full_forwards, counter, images) / _num_flops(_encoder_once, counter, images)
        comparison = compare(lambda: _full_forwards(counter, images), lambda: _encoder_once(counter, images), rounds=7,
                             agree=agree)
    print(f"{comparison}; ratio of operations {flop_ratio:.2f}")
    assert comparison.ratio >= SHARE_OF_FLOPS * flop_ratio
    assert comparison.ratio >= least_ratio


def test_encoder_once_takes_the_memory_of_one_image() -> None:
    growth = {}
    for way in ("members", "tiled"):
        command = [sys.executable, "-c", MEMORY_CODE.replace("{tiles}", str(NUM_TILES)), way]
        growth[way] = int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout)
    print(f"peak memory grows by {growth['members'] / 1024:.0f} MiB, by {growth['tiled'] / 1024:.0f} MiB with the "
          "batch tiled")
    assert growth["members"] <= LARGEST_MEMORY * growth["tiled"]
