"""The pinhole camera over a flat ground: x right, y up, z away from the camera, in metres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crowddist.data.simulator.config import Look

NEAREST_M = 0.4  # ours: nothing closer to the image plane is drawn


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A camera at (0, height_m, 0) that looks along +z, tilted down by `pitch` and rolled by `roll`."""

    size: tuple[int, int]  # (height, width) of the image in px
    height_m: float  # above the ground
    pitch: float  # radians below the horizontal
    roll: float  # radians, clockwise in the image
    focal_px: float  # focal length

    def depth(self, y: np.ndarray | float, z: np.ndarray | float) -> np.ndarray:
        """Metres from the image plane of points at height y and ground distance z."""
        return (self.height_m - y) * np.sin(self.pitch) + z * np.cos(self.pitch)

    def project(self, x: np.ndarray | float, y: np.ndarray | float,
                z: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Pixel columns and rows of points; points behind the camera get the nearest depth."""
        depth = np.maximum(self.depth(y, z), NEAREST_M)
        across = self.focal_px * x / depth
        down = self.focal_px * ((self.height_m - y) * np.cos(self.pitch) - z * np.sin(self.pitch)) / depth
        cosine, sine = np.cos(self.roll), np.sin(self.roll)
        return ((self.size[1] - 1) / 2 + across * cosine - down * sine,
                (self.size[0] - 1) / 2 + across * sine + down * cosine)

    def rays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """World directions (x, y, z) through each pixel at unit depth, each (H, W) float32."""
        height, width = self.size
        columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        columns, rows = (columns - (width - 1) / 2) / self.focal_px, (rows - (height - 1) / 2) / self.focal_px
        cosine, sine = np.cos(self.roll), np.sin(self.roll)
        across, down = columns * cosine + rows * sine, rows * cosine - columns * sine
        return (across.astype(np.float32), (-np.sin(self.pitch) - down * np.cos(self.pitch)).astype(np.float32),
                (np.cos(self.pitch) - down * np.sin(self.pitch)).astype(np.float32))


def draw_camera(rng: np.random.Generator, look: Look, size: tuple[int, int]) -> Camera:
    """A camera of the look: height log-uniform, pitch such that the horizon falls on a row of the look's range."""
    height, width = size
    low, high = np.log(look.camera_height_m)
    focal_px = width * rng.uniform(*look.focal)
    horizon = rng.uniform(*look.horizon)
    return Camera(size=size, height_m=float(np.exp(rng.uniform(low, high))),
                  pitch=float(np.arctan((0.5 - horizon) * height / focal_px)),
                  roll=float(np.clip(rng.normal(0, 0.012), -0.03, 0.03)), focal_px=float(focal_px))
