"""Settings of the crowd renderer: number of pictures, size, seed and look."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from crowddist.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Look:
    """One visual domain: the ranges from which places, cameras, light, people and sensors are drawn."""

    locations: tuple[int, int] = (0, 100)
    """First location and one past the last, within 0-100; looks with disjoint ranges show different places."""
    level_weights: tuple[float, ...] = (0.02, 0.04, 0.1, 0.2, 0.34, 0.18, 0.08, 0.03, 0.01)
    """Relative frequency of GCC's levels 0-8 (how many persons an image shows)."""
    hour_weights: tuple[float, ...] = (0.2,) * 6 + (0.6,) + (1.0,) * 11 + (0.8, 0.6, 0.4, 0.3, 0.3, 0.2)
    """Relative frequency of the hours 0-23."""
    weather_weights: tuple[float, ...] = (0.3, 0.16, 0.06, 0.07, 0.03, 0.2, 0.18)
    """Relative frequency of GCC's weather codes 0-6."""
    # A pair is the lowest and the highest value of a range.
    camera_height_m: tuple[float, float] = (2.4, 16.0)  # above the ground; drawn log-uniformly
    horizon: tuple[float, float] = (-0.45, 0.32)  # row over image height; negative: above the frame, a steeper view
    focal: tuple[float, float] = (0.75, 1.35)  # focal length over image width
    min_head_px: float = 4.5  # smallest head height, px at 960 columns; nobody stands farther away
    crowding: tuple[float, float] = (0.0, 1.0)  # share of persons in dense masses; the others walk about
    clothing: Literal["mixed", "bright", "dark"] = "mixed"
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)  # colour cast of the sensor: gains of red, green and blue
    tint_spread: float = 0.03  # standard deviation of each gain between images
    saturation: tuple[float, float] = (0.75, 1.2)  # of colours, 1 = as lit
    contrast: tuple[float, float] = (1.0, 1.4)  # 1 = as lit
    brightness: tuple[float, float] = (0.33, 0.55)  # mean of the developed daylight image, of [0, 1]
    noise: tuple[float, float] = (0.002, 0.02)  # standard deviation of the sensor noise, of [0, 1]
    blur_px: tuple[float, float] = (0.0, 0.9)  # optical blur, px at 960 columns
    jpeg_quality: tuple[int, int] = (70, 95)
    people: Literal["few", "many"] = "few"  # 56 puppets, which face eight ways; many: 768 of all builds, see `puppets`
    texture: tuple[float, float] = (0.0, 0.0)  # fine texture of surfaces: standard deviation of log albedo
    litter: tuple[float, float] = (0.0, 0.0)  # share of surfaces under leaves, gravel, ripples and the like
    nearest_end: float = 1.0  # the crowds of a place end where heads have min_head_px to this times as much
    shown: float = 0.15  # least visible share of a labelled head: annotators of photographs do not see the others

    def __post_init__(self) -> None:
        """Raises InputError for values that cannot be drawn."""
        first, last = self.locations
        if not 0 <= first < last <= 100:
            raise InputError(f"locations must lie within 0-100 and not be empty, got {self.locations}")
        for name, length in (("level_weights", 9), ("hour_weights", 24), ("weather_weights", 7)):
            weights = getattr(self, name)
            if len(weights) != length or min(weights) < 0 or not 0 < sum(weights) < math.inf:
                raise InputError(f"{name} must be {length} weights of at least 0 and not all 0, got {weights}")
        for name in ("camera_height_m", "horizon", "focal", "crowding", "saturation", "contrast", "brightness", "noise",
                     "blur_px", "jpeg_quality", "texture", "litter"):
            low, high = getattr(self, name)
            if not low <= high:
                raise InputError(f"{name} must be (low, high), got {(low, high)}")
        if self.nearest_end < 1 or not 0 < self.shown <= 1:
            raise InputError("a look needs nearest_end >= 1 and shown above 0 to 1, got "
                             f"{self.nearest_end:g} and {self.shown:g}")
        if self.camera_height_m[0] < 2.0 or self.focal[0] <= 0.2 or self.horizon[1] > 0.6 or self.min_head_px <= 0:
            raise InputError("a look needs camera_height_m >= 2, focal > 0.2, horizon <= 0.6 and min_head_px > 0")


LOOKS: dict[str, Look] = {
    # The widest: a source for targets of real photographs.
    "broad": Look(),
    # For a counter of all cameras (recipe `pretrain`): wider in all, more kinds of people, rough surfaces.
    "wide": Look(
        level_weights=(0.04, 0.06, 0.1, 0.17, 0.25, 0.19, 0.12, 0.06, 0.01), camera_height_m=(2.0, 25.0),
        horizon=(-1.2, 0.35), focal=(0.6, 2.2), min_head_px=4.5, tint_spread=0.06, saturation=(0.3, 1.3),
        contrast=(0.85, 1.5), brightness=(0.25, 0.55), noise=(0.002, 0.04), blur_px=(0.0, 1.1), jpeg_quality=(35, 95),
        people="many", texture=(0.1, 0.7), litter=(0.0, 0.6), nearest_end=5.0, shown=0.3),
    # The two domains of the quickstart. Source: street-level to mid cameras in daylight, clean sensors.
    "source": Look(
        locations=(0, 60), level_weights=(0.02, 0.08, 0.16, 0.3, 0.36, 0.08, 0.0, 0.0, 0.0),
        hour_weights=(0.0,) * 8 + (1.0,) * 9 + (0.0,) * 7,
        weather_weights=(0.4, 0.2, 0.0, 0.0, 0.0, 0.2, 0.2), camera_height_m=(2.8, 7.0), horizon=(-0.3, 0.2),
        focal=(0.75, 1.15), min_head_px=7.0, crowding=(0.0, 0.7), clothing="bright", saturation=(0.85, 1.1),
        contrast=(1.05, 1.35), brightness=(0.38, 0.5), noise=(0.002, 0.008), blur_px=(0.0, 0.5), jpeg_quality=(85, 95)),
    # Target: other places from higher up, at dusk and in bad weather, denser, smaller heads, a yellow noisy sensor.
    "target": Look(
        locations=(60, 100), level_weights=(0.0, 0.0, 0.05, 0.2, 0.5, 0.25, 0.0, 0.0, 0.0),
        hour_weights=(0.0,) * 5 + (0.5, 1.0) + (0.4,) * 9 + (0.6, 1.0, 1.0, 1.0, 0.6) + (0.0,) * 3,
        weather_weights=(0.14, 0.15, 0.25, 0.13, 0.08, 0.25, 0.0), camera_height_m=(8.0, 20.0), horizon=(-0.9, -0.1),
        focal=(0.9, 1.4), min_head_px=5.0, crowding=(0.3, 1.0), clothing="dark", tint=(1.1, 1.0, 0.82),
        saturation=(0.4, 0.7), contrast=(1.05, 1.35), brightness=(0.33, 0.46), noise=(0.01, 0.025), blur_px=(0.5, 1.1),
        jpeg_quality=(55, 80)),
}


@dataclass(frozen=True, kw_only=True)
class RendererConfig:
    """A rendered data set; each image depends on its index and these values alone, without `num_images`."""

    num_images: int = 1000
    size: tuple[int, int] = (540, 960)  # (height, width) in px
    seed: int = 0  # of all random numbers
    look: str | Look = "broad"  # a name in LOOKS, or a Look of your own
    images_per_scene: int = 5  # consecutive images of one place and camera, with different hour, weather and people

    def __post_init__(self) -> None:
        """Raises InputError for values that cannot be drawn."""
        if self.num_images < 1 or self.images_per_scene < 1:
            got = f"got {self.num_images} and {self.images_per_scene}"
            raise InputError(f"num_images and images_per_scene must be at least 1, {got}")
        if len(self.size) != 2 or not (64 <= self.size[0] <= 4096 and 64 <= self.size[1] <= 4096):
            raise InputError(f"size must be (height, width) within 64-4096 pixels, got {self.size}")
        if self.seed < 0:
            raise InputError(f"seed must be at least 0, got {self.seed}")
        if isinstance(self.look, str) and self.look not in LOOKS:
            raise InputError(f"look must be one of {', '.join(LOOKS)} or a Look, got {self.look!r}")

    @property
    def drawn_look(self) -> Look:
        """The look itself, also where `look` is a name."""
        return LOOKS[self.look] if isinstance(self.look, str) else self.look
