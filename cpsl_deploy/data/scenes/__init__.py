"""Procedural street scenes with exact labels, in two domains: a plain game and a hazy road camera.

image, label = render_scene(7, "camera")       # (128, 256, 3) and (128, 256) uint8
scene = Scene(7, "camera"); scene.frame(1.5)   # the same street 1.5 s later
"""

from .materials import DEMO_CLASSES
from .scene import DEMO_SIZE, DOMAINS, Scene, demo_video, render_scene

__all__ = ["DEMO_CLASSES", "DEMO_SIZE", "DOMAINS", "Scene", "demo_video", "render_scene"]
