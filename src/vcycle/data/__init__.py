"""Datasets: generate, keep, divide, check, import and export."""

from vcycle.data.dataset import Dataset
from vcycle.data.formats import FORMATS, detect_format, read_file, read_neuraloperator, write_neuraloperator
from vcycle.data.generate import generate
from vcycle.data.origin import origin, seen_of
from vcycle.data.validate import Finding, Report, check
from vcycle.data.window import Window

__all__ = [
    "FORMATS",
    "Dataset",
    "Finding",
    "Report",
    "Window",
    "check",
    "detect_format",
    "generate",
    "origin",
    "read_file",
    "read_neuraloperator",
    "seen_of",
    "write_neuraloperator",
]
