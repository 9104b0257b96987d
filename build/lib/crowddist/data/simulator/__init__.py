"""The built-in labelled source: a procedural crowd renderer. An image depends on its look, seed and index alone."""

from crowddist.data.simulator.dataset import write_dataset
from crowddist.data.simulator.render import RenderedImage, render_image

__all__ = ["RenderedImage", "render_image", "write_dataset"]
