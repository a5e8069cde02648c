"""Rotating shallow water on the sphere: gravity waves, a jet, and the eddies that it breaks up into."""

import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vcycle import _check
from vcycle.boundary import Boundary
from vcycle.grid import Grid
from vcycle.problems.evolution import Evolution
from vcycle.problems.problem import FieldInfo, Fields, QualityInfo
from vcycle.solvers.etdrk4 import Term, read_times
from vcycle.solvers.sphere import EXTENT, SphereSpace

MASS_DRIFT = QualityInfo("mass_drift", about="largest change of the mean depth from the initial one, over the latter")
ENERGY_DRIFT = QualityInfo(
    "energy_drift",
    about="largest change of kinetic and available potential energy from their initial sum, over the latter",
)

EARTH_ROTATION = 7.292e-5 * 6.37122e6 / math.sqrt(9.80616 * 1e4)
"""The earth's angular velocity for a mean depth of 10 km, in the unit of this family: 1.484."""
GALEWSKY_JET = 80.0 / math.sqrt(9.80616 * 1e4)
"""80 m/s in the unit of this family: 0.255."""
JET_SOUTH, JET_NORTH = math.pi / 7, math.pi / 2 - math.pi / 7
ALL_DEGREES = 4000
"""Degrees above have no part in the variance of random fields that would show."""


class ShallowWater(Evolution):
    """Shallow water of mean depth H on a rotating sphere of radius a, for elevation, vorticity and divergence.

    With velocity u, absolute vorticity ``q = vorticity + 2 rotation cos(colatitude)`` and relative elevation
    ``eta = h / H - 1`` (geopotential ``g h = g H (1 + eta)``)::

        eta_t        = -div((1 + eta) u)
        vorticity_t  = -div(q u)
        divergence_t = curl(q u) - Laplace(eta + |u|^2 / 2)

    each with ``-hyperdiffusion (-Laplace)^4`` of itself. The unit of length is a, that of speed the speed ``sqrt(g H)``
    of long gravity waves: on an earth with H = 10 km a unit of time is 5.65 hours, and a day 4.25.

    The state has the components eta, vorticity, divergence. It is held by spherical harmonics up to a third of the
    number of longitudes (21 on 32 x 64 points), with products free of aliasing; mass is conserved to rounding, energy
    up to what leaves the truncation. Gravity waves are stepped explicitly.

    The initial state is a jet in the northern hemisphere plus random vorticity, no divergence, the elevation that keeps
    it so at first, and a random elevation out of balance, from which gravity waves radiate. Vorticity and random
    elevation of a coarse grid are truncations of a fine grid's. The jet needs 85 degrees and more to be resolved well:
    the recorded ``tail`` shows how well, and ``refine`` solves on a finer grid.

    Parameters
    ----------
    grid
        Colatitude by longitude, as :attr:`usual_grid` says: both poles are points, longitude is periodic.
    times
        Of the stored solution, increasing, after 0.
    rotation
        Angular velocity of the sphere, in sqrt(g H) / a; default the earth's for H = 10 km.
    hyperdiffusion
        In 1 / time for a = 1, 0 for none; the harmonics of degree l decay at ``hyperdiffusion (l (l + 1))^4``. The
        default halves those of degree 21 in 0.3 units of time; scale it by the eighth power of the grid's spacing.
    jet
        Largest peak speed of the jet, in sqrt(g H); every sample draws between half of it and all.
    vorticity, elevation
        Expected root mean square of the random fields, the latter one without what balances the flow.
    alpha, tau
        Random fields have amplitudes ``(l (l + 1) + tau^2)^(-alpha / 2)`` times independent normal numbers: smoothness
        (more than 1) and inverse correlation length in 1 / a. Their mean is zero.
    refine
        Solve with the harmonics of a grid this many times as fine; input and output stay on ``grid``.

    Raises
    ------
    ValueError
        If the grid is no such grid, or a number is out of range.
    ModuleNotFoundError
        On first use, if torch-harmonics is not installed.

    References
    ----------
    Williamson et al., J. Comput. Phys. 102 (1992) 211, equations (2) to (8); Galewsky, Scott, Polvani, Tellus 56A
    (2004) 429, equations (2) and (3) for the jet; Bonev et al., Spherical Fourier neural operators, ICML 2023
    (arXiv:2306.03838), whose data this family resembles.
    """

    name: ClassVar[str] = "shallow-water"
    usual_grid: ClassVar[dict[str, Any]] = {"extent": EXTENT, "centring": "vertex", "periodic": (False, True)}
    checks: ClassVar[tuple[QualityInfo, ...]] = (MASS_DRIFT, ENERGY_DRIFT)

    space: SphereSpace  # type: ignore[assignment]  # has what Evolution asks of a FourierSpace

    def __init__(
        self,
        grid: Grid,
        *,
        times: Sequence[float] = (1.0, 2.0, 3.0, 4.0),
        rotation: float = EARTH_ROTATION,
        hyperdiffusion: float = 5e-11,
        jet: float = GALEWSKY_JET,
        vorticity: float = 0.3,
        elevation: float = 0.005,
        alpha: float = 4.0,
        tau: float = 5.0,
        refine: int = 1,
    ) -> None:
        self.space = SphereSpace(grid, refine=refine)
        self.grid, self.boundary = grid, Boundary.on(grid, "neumann")  # poles are no walls: nothing is fixed there
        self.times = read_times(times)
        self._inputs = (FieldInfo("initial", components=3),)
        self.outputs = (FieldInfo("solution", components=3, times=self.times),)
        self.rotation = _check.not_negative("rotation", rotation)
        self.hyperdiffusion = _check.not_negative("hyperdiffusion", hyperdiffusion)
        self.jet = _check.not_negative("jet", jet)
        self.vorticity = _check.not_negative("vorticity", vorticity)
        self.elevation = _check.not_negative("elevation", elevation)
        self.alpha, self.tau = _check.positive("alpha", alpha), _check.positive("tau", tau)
        if self.alpha <= 1:
            raise ValueError(f"`alpha` must be more than 1, or the random fields are no functions. Got {alpha}.")

    def config(self) -> dict[str, Any]:
        """Return the JSON-ready arguments that build this problem again."""
        return {
            "name": self.name,
            "grid": self.grid.to_dict(),
            "times": list(self.times),
            "alpha": self.alpha,
            "tau": self.tau,
            "refine": self.space.refine,
        } | self.equation()

    def equation(self) -> dict[str, Any]:
        """Return rotation, hyperdiffusion, and the strengths of what initial states are made of."""
        names = ("rotation", "hyperdiffusion", "jet", "vorticity", "elevation")
        return {name: getattr(self, name) for name in names}

    # --------------------------------------------------------------------------------------------------------- equation

    def linear(self) -> Tensor:
        """Return ``-hyperdiffusion (l (l + 1))^4``."""
        return -self.hyperdiffusion * self.space.laplacian**4

    def nonlinear(self) -> Term:
        """Return everything but the hyperdiffusion, sample by sample."""

        def change(modes: Tensor) -> Tensor:
            if not len(modes):
                return modes
            return torch.stack([self._change(sample.clone()) for sample in modes])

        return change

    def _change(self, modes: Tensor) -> Tensor:
        space = self.space
        velocity = space.velocity_values(modes[1], modes[2])
        eta, vorticity = space.product_values(modes[:2])
        absolute = vorticity + 2 * self.rotation * torch.cos(space.colatitudes)
        fluxes = torch.stack([(1 + eta) * velocity, absolute * velocity])
        divergence, curl = space.divergence_and_curl(fluxes)
        kinetic = space.product_modes(0.5 * (velocity**2).sum(0, keepdim=True))[0]
        return torch.stack([-divergence[0], -divergence[1], curl[1] - space.laplacian * (kinetic + modes[0])])

    def rates(self, initial: Tensor) -> Tensor:
        """Return the speed of flow and waves over the shortest wave length, times 2 pi, plus twice the rotation."""
        shortest = math.sqrt(self.space.highest * (self.space.highest + 1))
        found = []
        for sample in self.space.modes(initial):
            speed = self.space.velocity_values(sample[1], sample[2]).norm(dim=0).max()
            depth = (1 + self.space.product_values(sample[:1])).max().clamp_min(0.0)
            found.append(shortest * (speed + depth.sqrt()) + 2 * self.rotation)
        return torch.stack(found) if found else initial.new_zeros(0)

    def measure(self, initial: Tensor, states: Tensor) -> Fields:
        """Return the drifts of mass and energy."""
        mean = math.sqrt(1 / (4 * math.pi))
        depth, later = 1 + mean * initial[:, 0, 0, 0].real, 1 + mean * states[:, :, 0, 0, 0].real
        energy, energies = self.energy(initial), torch.stack([self.energy(state) for state in states.unbind(1)], 1)
        tiny = math.ulp(0.0)
        return {
            MASS_DRIFT.name: ((later - depth.unsqueeze(1)).abs() / depth.unsqueeze(1).abs().clamp_min(tiny)).amax(1),
            ENERGY_DRIFT.name: (energies - energy.unsqueeze(1)).abs().amax(1) / energy.abs().clamp_min(tiny),
        }

    def energy(self, modes: Tensor) -> Tensor:
        """Return the mean of ``(1 + eta) |u|^2 / 2 + eta^2 / 2`` over the sphere, ``(sample,)``, in g H.

        That is kinetic and available potential energy: total energy less that of rest with the same mean depth.
        """
        space, found = self.space, []
        for sample in modes:
            speed = (space.velocity_values(sample[1].clone(), sample[2].clone()) ** 2).sum(0)
            eta = space.product_values(sample[:1].clone())[0]
            found.append(space.mean((1 + eta) * speed + eta**2) / 2)
        return torch.stack(found) if found else torch.zeros(0, dtype=torch.float64)

    def _finite(self, inputs: "Fields | Tensor") -> Tensor:
        values = super()._finite(inputs)
        if bool((values[:, 0] <= -1).any()):
            got = float(values[:, 0].min())
            raise ValueError(f"`initial` must have an elevation above -1, where the depth is zero. Got {got}.")
        return values

    # ---------------------------------------------------------------------------------------------------- initial state

    def draw(self, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw the initial state of one sample, ``(component, *space)``."""
        for_jet, for_eta, for_vorticity = generator.spawn(3)
        state = self.jet * for_jet.uniform(0.5, 1.0) * self._jet_flow
        state += self.vorticity * self._random(for_vorticity)
        balance = self.balanced(state) + self.elevation * self._random(for_eta)
        state = torch.stack([balance, state, torch.zeros_like(state)])
        return {"initial": self.space.values(state).numpy()}

    def balanced(self, vorticity: Tensor) -> Tensor:
        """Return the elevation, of zero mean, that keeps the divergence of a flow without divergence zero at first.

        Both are amplitudes ``(l, m)``. A zonal flow is steady then.
        """
        flow = torch.stack([torch.zeros_like(vorticity), vorticity, torch.zeros_like(vorticity)])
        return self.space.inverse_laplacian * self._change(flow)[2]

    @functools.cached_property
    def _jet_flow(self) -> Tensor:
        """Amplitudes of the vorticity of a jet of unit peak speed, which has all derivatives but is not analytic."""
        highest = self.space.highest
        x, weights = np.polynomial.legendre.leggauss(2 * highest + 512)
        latitude, inside = np.arcsin(x), np.zeros(len(x), bool)
        inside[(latitude > JET_SOUTH) & (latitude < JET_NORTH)] = True
        speed = np.zeros(len(x))
        at = latitude[inside]
        speed[inside] = np.exp(4 / (JET_NORTH - JET_SOUTH) ** 2 + 1 / ((at - JET_SOUTH) * (at - JET_NORTH)))
        degrees = np.arange(1, highest + 1)
        legendre = np.polynomial.legendre.legvander(x, highest)
        slopes = degrees * (x[:, None] * legendre[:, 1:] - legendre[:, :-1]) / np.cos(latitude)[:, None]
        slopes *= np.sqrt((2 * degrees + 1) / (4 * math.pi))
        flow = torch.zeros(self.space.shape, dtype=torch.complex128)
        flow[1:, 0] = torch.from_numpy(-2 * math.pi * (weights * speed) @ slopes)  # by parts, as the space's curl
        return flow

    def _random(self, generator: np.random.Generator) -> Tensor:
        """Return the amplitudes of a Gaussian field of zero mean and unit expected mean square."""
        l = np.arange(1.0, ALL_DEGREES)  # noqa: E741  # the field's own letter
        size = (l * (l + 1) + self.tau**2) ** (-self.alpha / 2)
        size /= math.sqrt(((2 * l + 1) * size**2).sum() / (4 * math.pi))
        field = torch.zeros(self.space.shape, dtype=torch.complex128)
        for degree in range(1, self.space.highest + 1):  # in this order a coarse grid draws the first of a fine one's
            normal = torch.from_numpy(generator.standard_normal((degree + 1, 2)))
            normal[0, 1], normal[1:] = 0.0, normal[1:] / math.sqrt(2)
            field[degree, : degree + 1] = float(size[degree - 1]) * torch.view_as_complex(normal)
        return field
