"""How good an operator is: measured, bounded, compared with classical solvers, and shown."""

from vcycle.evaluation.benchmark import Benchmark, benchmark
from vcycle.evaluation.certify import Certificate, certify
from vcycle.evaluation.evaluate import Evaluation, evaluate
from vcycle.evaluation.report import ReportData, SamplePicture, write_report

__all__ = [
    "Benchmark",
    "Certificate",
    "Evaluation",
    "ReportData",
    "SamplePicture",
    "benchmark",
    "certify",
    "evaluate",
    "write_report",
]
