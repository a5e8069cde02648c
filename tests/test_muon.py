"""Muon: orthogonalisation against a singular value decomposition, one step by hand, resuming."""

import torch
from torch import nn

from helpers import assert_close
from vcycle.models import MODELS
from vcycle.training.muon import MATCH, MOMENTUM, Muon, convolution_kernels, orthogonalised


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_singular_vectors_stay_and_singular_values_come_near_one():
    for shape in ((4, 6, 20), (3, 20, 6), (2, 5, 5)):
        matrices = random(*shape)
        left, _, right = torch.linalg.svd(matrices, full_matrices=False)
        result = orthogonalised(matrices)
        values = left.mT @ result @ right.mT
        diagonal = values.diagonal(dim1=1, dim2=2)
        assert (values - torch.diag_embed(diagonal)).abs().max() < 1e-4
        assert 0.6 < diagonal.min() <= diagonal.max() < 1.25


def test_orthogonalisation_does_not_depend_on_the_size_of_the_gradient():
    matrices = random(2, 4, 9)
    assert_close(orthogonalised(1e-6 * matrices), orthogonalised(matrices), rtol=1e-4)
    assert orthogonalised(torch.zeros(1, 3, 3)).abs().max() == 0


class Weights(nn.Module):
    """A convolution of chosen weights."""

    def __init__(self, kernel, bias=None):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, bias=bias is not None)
        self.convolution.weight = nn.Parameter(kernel)
        if bias is not None:
            self.convolution.bias = nn.Parameter(bias)


def test_kernels_are_told_from_other_parameters():
    mgno, fno = MODELS["mgno"](1, 1, levels=2, depth=1, cycle="V"), MODELS["fno"](1, 1, modes=4, width=4, depth=1)
    names = {id(p): name for name, p in mgno.named_parameters()}
    kernels = {names[id(p)] for p in convolution_kernels(mgno)}
    assert kernels == {name for name in names.values() if name.startswith("W.")}
    assert convolution_kernels(fno) == []  # 1x1 convolutions and Fourier multipliers
    assert (
        len(convolution_kernels(nn.Sequential(nn.Conv1d(2, 2, 3), nn.ConvTranspose3d(2, 2, 2), nn.Linear(3, 3)))) == 2
    )


def test_first_step_is_the_orthogonalised_gradient_and_adamw_elsewhere():
    rate, decay = 0.01, 0.1
    network, twin = Weights(random(4, 3, 3, 3), random(4, seed=1)), nn.Parameter(random(4, seed=1))
    kernel, bias = network.convolution.weight, network.convolution.bias
    start, gradient = kernel.detach().clone(), random(4, 3, 3, 3, seed=2)
    ours, adamw = Muon(network, rate, decay), torch.optim.AdamW([twin], rate, weight_decay=decay)
    for parameter in (bias, twin):
        parameter.grad = random(4, seed=3)
    kernel.grad = gradient.clone()
    ours.step()
    adamw.step()
    step = orthogonalised(gradient.flatten(1)[None])[0].reshape(start.shape)  # the gradient's size does not matter
    assert_close(kernel, start * (1 - rate * decay) - rate * MATCH * 27**0.5 * step, rtol=1e-5)
    assert_close(bias, twin)


def test_second_step_follows_nesterovs_momentum():
    network = Weights(random(4, 3, 3, 3))
    kernel, optimiser = network.convolution.weight, Muon(network, 0.01)
    first, second = random(4, 3, 3, 3, seed=1), random(4, 3, 3, 3, seed=2)
    for gradient in (first, second):
        before, kernel.grad = kernel.detach().clone(), gradient.clone()
        optimiser.step()
    average = (1 - MOMENTUM) * (MOMENTUM * first + second)
    direction = (1 - MOMENTUM) * second + MOMENTUM * average
    step = orthogonalised(direction.flatten(1)[None])[0].reshape(before.shape)
    assert_close(kernel, before - 0.01 * MATCH * 27**0.5 * step, rtol=1e-5)


def test_state_resumes_to_the_same_weights():
    def advance(optimiser, network, seeds):
        for seed in seeds:
            network.convolution.weight.grad = random(4, 3, 3, 3, seed=seed)
            optimiser.step()

    whole, first = (Weights(random(4, 3, 3, 3)) for _ in range(2))
    advance(Muon(whole, 0.01), whole, (1, 2, 3, 4))
    before = Muon(first, 0.01)
    advance(before, first, (1, 2))
    second = Weights(first.convolution.weight.detach().clone())
    after = Muon(second, 0.01)
    after.load_state_dict(before.state_dict())
    advance(after, second, (3, 4))
    assert torch.equal(second.convolution.weight, whole.convolution.weight)


def test_closure_computes_the_gradients():
    network = Weights(random(4, 3, 3, 3))
    optimiser = Muon(network, 0.05)

    def closure():
        loss = network.convolution.weight.square().sum()
        loss.backward()
        return loss

    losses = []
    for _ in range(200):
        optimiser.zero_grad()
        losses.append(optimiser.step(closure).item())
    assert losses[-1] < 0.1 * losses[0]
