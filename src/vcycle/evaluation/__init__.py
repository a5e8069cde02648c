"""How good an operator is: measured, bounded, compared with classical solvers, and shown."""

from vcycle.evaluation.benchmark import Benchmark, benchmark
from vcycle.evaluation.certify import Certificate, certify
from vcycle.evaluation.evaluate import Evaluation, evaluate
from vcycle.evaluation.report import ReportData, SamplePicture, write_report
from vcycle.evaluation.rollout import rollout_errors

__all__ = [
    "Benchmark",
    "Certificate",
    "Evaluation",
    "ReportData",
    "SamplePicture",
    "benchmark",
    "certify",
    "evaluate",
    "rollout_errors",
    "write_report",
]
