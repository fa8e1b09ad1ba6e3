"""Pipelines: short functions over a network and a sampler, and the folders of diffusers that hold both."""

from minidiff.pipelines.denoiser import Guidance
from minidiff.pipelines.editing import image_to_image, inpaint, repaint
from minidiff.pipelines.generation import generate, interpolate, slerp
from minidiff.pipelines.objective import training_objective
from minidiff.pipelines.pipeline import Pipeline, load_pipeline, save_pipeline
from minidiff.pipelines.super_resolution import super_resolution

__all__ = [
    "Guidance",
    "Pipeline",
    "generate",
    "image_to_image",
    "inpaint",
    "interpolate",
    "load_pipeline",
    "repaint",
    "save_pipeline",
    "slerp",
    "super_resolution",
    "training_objective",
]
