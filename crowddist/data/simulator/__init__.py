"""The procedural crowd renderer: the embedded labelled source.

A rendered image is a function of its look, seed and index alone; nothing is read from anywhere.
"""

from crowddist.data.simulator.dataset import write_dataset
from crowddist.data.simulator.render import RenderedImage, render_image

__all__ = ["RenderedImage", "render_image", "write_dataset"]
