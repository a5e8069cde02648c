"""What the tests of several problem families share: exact data of a solution, plain assembly, plain solves."""

import math

import numpy as np
import scipy.sparse.linalg as spla
import torch


def direct(systems, index=0):
    """Solve by SuperLU; in a singular system the last unknown is held at 0 first, then the mean is removed."""
    matrix, b = systems.to_csr(index)
    free = len(b) - 1 if systems.singular else len(b)
    solution = np.zeros(len(b))
    solution[:free] = spla.spsolve(matrix.tocsc()[:free, :free], b[:free], permc_spec="MMD_AT_PLUS_A")
    if systems.singular:
        solution -= solution.mean()
    return torch.from_numpy(solution.reshape(systems.rhs[index].shape))


def flux_divergence(exact, coefficient, points):
    """Return a grad u and -div(a grad u) at points, by automatic differentiation."""
    points = [p.clone().requires_grad_() for p in points]
    u, a = exact(*points), coefficient(*points)
    gradient = torch.autograd.grad(u.sum(), points, create_graph=True, materialize_grads=True)
    fluxes = [a * g for g in gradient]
    parts = [
        torch.autograd.grad(q.sum(), p, retain_graph=True, materialize_grads=True)[0]
        for q, p in zip(fluxes, points, strict=True)
    ]
    return [q.detach() for q in fluxes], -sum(parts)


def face_points(grid, face):
    coordinates = [torch.from_numpy(x) for x in grid.coordinates()]
    axis = grid.axis_names.index(face[0])
    coordinates[axis] = torch.tensor([0.0 if face.endswith("low") else grid.extent[axis]], dtype=torch.float64)
    return torch.meshgrid(*coordinates, indexing="ij")


def face_data(grid, boundary, exact, coefficient):
    """Return the solution on Dirichlet and a du/dn on Neumann faces."""
    data = {}
    for axis, (name, pair) in enumerate(zip(grid.axis_names, boundary, strict=True)):
        for end, kind in zip(("low", "high"), pair, strict=True):
            points = face_points(grid, f"{name}_{end}")
            if kind == "dirichlet":
                data[f"{name}_{end}"] = exact(*points).squeeze(axis)
            elif kind == "neumann":
                sign = -1 if end == "low" else 1
                data[f"{name}_{end}"] = sign * flux_divergence(exact, coefficient, points)[0][axis].squeeze(axis)
    return data


def l2_error(computed, exact, *, singular):
    exact = exact - exact.mean() if singular else exact
    return float((computed - exact).square().mean().sqrt())


def plain_assembly(grid, kinds, a, reaction, source, values, velocity=None, *, walls_closed=False):
    """Assemble cell by cell and face by face, with loops and 1-D indices: nothing shared with the library.

    A velocity, one array per axis, adds ``b . grad u`` by means of both cells; an absorbing face has the value ``i k``.
    """
    size, volume = math.prod(grid.shape), math.prod(grid.spacing)
    matrix = np.zeros((size, size), complex if any("absorbing" in pair for pair in kinds) else float)
    rhs = np.zeros(size)
    flat = {index: number for number, index in enumerate(np.ndindex(*grid.shape))}
    for index, row in flat.items():
        matrix[row, row] += reaction[index] * volume
        rhs[row] += source[index] * volume
        for axis, h in enumerate(grid.spacing):
            for step, end in ((-1, 0), (1, 1)):
                neighbour = list(index)
                neighbour[axis] += step
                outside = not 0 <= neighbour[axis] < grid.shape[axis]
                area = volume / h
                if outside and kinds[axis][end] != "periodic":
                    on_face = index[:axis] + index[axis + 1 :]
                    value = values.get(f"{'xyz'[axis]}_{('low', 'high')[end]}", np.zeros(()))
                    value = value[on_face] if np.ndim(value) else value
                    through = 0.0 if velocity is None or walls_closed else step * velocity[axis][index] * area
                    if kinds[axis][end] == "absorbing":
                        matrix[row, row] -= area * value / (1 - h / 2 * value)
                    elif kinds[axis][end] == "dirichlet":
                        matrix[row, row] -= through
                        rhs[row] -= through * value
                        matrix[row, row] += a[index] * area / (h / 2)
                        rhs[row] += a[index] * area / (h / 2) * value
                    else:
                        rhs[row] += area * value - through * value * (h / 2) / a[index]
                    continue
                neighbour[axis] %= grid.shape[axis]
                neighbour = tuple(neighbour)
                harmonic = 2 * a[index] * a[neighbour] / (a[index] + a[neighbour])
                matrix[row, row] += harmonic * area / h
                matrix[row, flat[neighbour]] -= harmonic * area / h
                if velocity is not None:
                    through = step * area * (velocity[axis][index] + velocity[axis][neighbour]) / 2
                    matrix[row, row] -= through / 2
                    matrix[row, flat[neighbour]] += through / 2
    return matrix, rhs
