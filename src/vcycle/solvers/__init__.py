"""Solvers for sequences of linear systems: direct, multigrid, Krylov, and Krylov with recycling."""

from vcycle.solvers.arnoldi import KrylovResult
from vcycle.solvers.factors import DirectFactors
from vcycle.solvers.gcrodr import gcrodr
from vcycle.solvers.krylov import cg, gmres, jacobi
from vcycle.solvers.ordering import nearest_neighbour_order
from vcycle.solvers.recycle import RecycleSpace
from vcycle.solvers.result import SequenceResult, Status
from vcycle.solvers.sequence import METHODS, ORDERS, solve_sequence
from vcycle.solvers.systems import LinearSystems

__all__ = [
    "METHODS",
    "ORDERS",
    "DirectFactors",
    "KrylovResult",
    "LinearSystems",
    "RecycleSpace",
    "SequenceResult",
    "Status",
    "cg",
    "gcrodr",
    "gmres",
    "jacobi",
    "nearest_neighbour_order",
    "solve_sequence",
]
