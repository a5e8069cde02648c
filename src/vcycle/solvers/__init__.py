"""Solvers for sequences of linear systems: direct, multigrid, Krylov, and Krylov with recycling."""

from vcycle.solvers.arnoldi import KrylovResult
from vcycle.solvers.factors import DirectFactors
from vcycle.solvers.gcrodr import gcrodr
from vcycle.solvers.krylov import cg, gmres
from vcycle.solvers.krylov_sequence import Krylov
from vcycle.solvers.ordering import fourier_features, nearest_neighbour_order, order_of, space_filling_order
from vcycle.solvers.preconditioners import PRECONDITIONERS, jacobi, preconditioner
from vcycle.solvers.recycle import RecycleSpace
from vcycle.solvers.recycling_cg import recycling_cg
from vcycle.solvers.result import SequenceResult, Status
from vcycle.solvers.sequence import METHODS, ORDERS, solve_sequence
from vcycle.solvers.subspace import subspace_distance
from vcycle.solvers.systems import LinearSystems

__all__ = [
    "METHODS",
    "ORDERS",
    "PRECONDITIONERS",
    "DirectFactors",
    "Krylov",
    "KrylovResult",
    "LinearSystems",
    "RecycleSpace",
    "SequenceResult",
    "Status",
    "cg",
    "fourier_features",
    "gcrodr",
    "gmres",
    "jacobi",
    "nearest_neighbour_order",
    "order_of",
    "preconditioner",
    "recycling_cg",
    "solve_sequence",
    "space_filling_order",
    "subspace_distance",
]
