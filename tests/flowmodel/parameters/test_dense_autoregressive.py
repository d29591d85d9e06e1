"""MADE depends on what it should and on nothing else, and takes what programs written for FlowTorch give it."""

from __future__ import annotations

import itertools

import pytest
import torch

import flowmodel.bijectors as bij
import flowmodel.parameters as params
from flowmodel.errors import PlanError, ShapeMismatchError

WIDTHS = [lambda d: (d,), lambda d: (d + 1,), lambda d: (3 * d, d), lambda d: (d, 2 * d + 1, d + 2)]


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("context_size", [0, 2])
@pytest.mark.parametrize("event_size", [1, 2, 3, 7])
def test_every_output_reads_all_that_comes_before_it_and_nothing_else(event_size, context_size, skip):
    backwards = tuple(reversed(range(event_size)))
    turned = tuple((k + 1) % event_size for k in range(event_size))
    for widths, order in itertools.product(WIDTHS, [None, backwards, turned]):
        plan = params.DenseAutoregressive(widths(event_size), permutation=order, skip_connections=skip)
        made = plan.build(event_size, context_size, 3)
        # All weights 1 and all units active: a derivative counts the paths through the masks.
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.fill_(1.0)
        x, context = torch.ones(1, event_size), torch.ones(1, context_size) if context_size else None
        paths = torch.autograd.functional.jacobian(lambda v, m=made, c=context: m(v, c)[0], x)[:, :, 0]
        place = torch.argsort(torch.tensor(order or range(event_size)))
        wanted = (place[:, None] > place[None, :])[:, None].expand(event_size, 3, event_size)
        assert torch.equal(paths > 0, wanted)
        if context_size:
            paths = torch.autograd.functional.jacobian(lambda c, m=made, v=x: m(v, c)[0], context)
            assert bool((paths > 0).all())


def test_skip_connections_alone_make_a_linear_map():
    made = params.DenseAutoregressive((8,), skip_connections=True).build(3, 0, 1)
    below = torch.tensor([[0.0, 0, 0], [2, 0, 0], [-1, 3, 0]])
    with torch.no_grad():
        made.skip_weight.copy_(below + torch.ones(3, 3).triu())
    x = torch.randn(10, 3)
    torch.testing.assert_close(made(x)[..., 0], x @ below.T)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (torch.nn.ReLU, "relu"),
        (torch.nn.Tanh, "tanh"),
        (torch.nn.ELU, "elu"),
        (torch.nn.LeakyReLU, "leaky_relu"),
        (torch.nn.Sigmoid, "sigmoid"),
        (torch.nn.Softplus, "softplus"),
    ],
)
def test_a_class_of_torch_is_noted_by_its_name(given, name):
    plan = params.DenseAutoregressive((16,), given)
    assert plan == params.DenseAutoregressive((16,), name)
    assert plan.to_json()["nonlinearity"] == name
    made = plan.build(2, 0, 1)
    x = torch.randn(50, 2)
    with torch.no_grad():
        made.weights[1].normal_()
    hidden = given()(torch.nn.functional.linear(x, made.folded_weights()[0], made.biases[0]))
    expected = torch.nn.functional.linear(hidden, made.folded_weights()[1], made.biases[1])
    torch.testing.assert_close(made(x)[..., 0], expected)


def test_a_permutation_may_be_a_tensor_and_is_saved_with_the_weights():
    plan = params.DenseAutoregressive((8,), permutation=torch.LongTensor([2, 0, 1]))
    assert plan.permutation == (2, 0, 1)
    bijector = bij.AffineAutoregressive(plan)(shape=torch.Size([3]))
    assert torch.equal(bijector.made.permutation, torch.tensor([2, 0, 1]))
    assert torch.equal(bijector.state_dict()["made.order"], torch.tensor([2, 0, 1]))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: params.DenseAutoregressive(nonlinearity=torch.nn.GELU),
            "GELU'> given; expected one of relu, .* or of the classes torch.nn.ReLU, .*torch.nn.Softplus",
        ),
        (lambda: params.DenseAutoregressive(nonlinearity=torch.nn.ReLU()), r"nonlinearity=ReLU\(\) given"),
        (lambda: params.DenseAutoregressive(permutation=(1, 2)), "expected each whole number from 0 to 1 once"),
        (
            lambda: params.DenseAutoregressive(skip_connections=1),
            "skip_connections=1 given; expected True, False or 'fitted'",
        ),
        (lambda: params.DenseAutoregressive((8.5,)), r"hidden_dims=\(8.5,\) given"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make, text):
    with pytest.raises(PlanError, match=text):
        make()


def test_a_layer_too_narrow_for_the_event_is_refused_with_the_width_it_needs():
    with pytest.raises(
        ShapeMismatchError, match=r"hidden_dims\[0\]=5 units .* event of 6 dimensions.*at least 6 units"
    ):
        params.DenseAutoregressive((5,)).build(6, 0, 2)
