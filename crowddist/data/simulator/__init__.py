"""The procedural crowd renderer: the embedded labelled source."""

from crowddist.data.simulator.dataset import write_dataset
from crowddist.data.simulator.render import RenderedImage, render_image

__all__ = ["RenderedImage", "render_image", "write_dataset"]
