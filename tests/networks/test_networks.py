"""Encoders and decoders: shapes with any leading dimensions, the order of elements, biases, messages."""

import math

import pytest
import torch
from torch import nn

from pyro_vae.errors import InputError
from pyro_vae.networks import (
    MLP,
    ConvDecoder,
    ConvEncoder,
    MLPDecoder,
    MLPEncoder,
    activation,
    apply_batched,
    make_decoder,
    make_encoder,
)

LEADING = [(), (3,), (5, 3), (2, 5, 3)]
IMAGES = [(1, 28, 28), (3, 17, 33), (2, 5, 8)]


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("leading", LEADING)
def test_apply_batched_gives_the_function_one_batch_dimension_and_keeps_the_order(leading):
    x = torch.arange(math.prod(leading) * 6.0).reshape(*leading, 2, 3)
    seen = []

    def row_sums(rows):
        seen.append(rows)
        return rows.sum(-1)

    torch.testing.assert_close(apply_batched(row_sums, x, 2), x.sum(-1))
    assert seen[0].shape == (math.prod(leading), 2, 3)
    assert seen[0].untyped_storage().data_ptr() == x.untyped_storage().data_ptr()  # a view, no copy


def test_apply_batched_on_an_empty_batch():
    assert apply_batched(lambda x: x[:, :1], torch.zeros(2, 0, 4), 1).shape == (2, 0, 1)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize("leading", LEADING)
def test_leading_dimensions_are_as_if_each_datum_came_alone(kind, shape, leading):
    encoder = make_encoder(kind, shape, (4, 6), 7, "elu")
    decoder = make_decoder(kind, 7, (6, 4), (2 * shape[0], *shape[1:]), "elu")
    x = torch.randn(*leading, *shape)
    h = encoder(x)
    assert h.shape == (*leading, 7)
    y = decoder(h)
    assert y.shape == (*leading, 2 * shape[0], *shape[1:])
    alone = encoder(x.reshape(-1, *shape)[-1])
    torch.testing.assert_close(h.reshape(-1, 7)[-1], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(y.reshape(-1, *y.shape[-3:])[-1], decoder(alone), rtol=1e-4, atol=1e-5)


def test_mlp_is_the_formula():
    mlp = MLP(3, (4, 5), 2, "tanh")
    first, second = mlp.hidden[0], mlp.hidden[2]
    x = torch.randn(6, 3)
    h = torch.tanh(torch.tanh(x @ first.weight.T + first.bias) @ second.weight.T + second.bias)
    torch.testing.assert_close(mlp(x), h @ mlp.out.weight.T + mlp.out.bias)


def test_gated_layers_are_the_formula():
    mlp = MLP(3, (4,), 2, "gated")
    x, layer = torch.randn(6, 3), mlp.hidden[0]
    with torch.no_grad():
        layer.bias.normal_()
    h = (x @ layer.weight[:4].T + layer.bias[:4]) * torch.sigmoid(x @ layer.weight[4:].T + layer.bias[4:])
    torch.testing.assert_close(mlp(x), h @ mlp.out.weight.T + mlp.out.bias)


def test_mlp_is_glorot_uniform_with_zero_biases():
    mlp = MLP(100, (300,), 50)
    for layer, fan in ((mlp.hidden[0], 400), (mlp.out, 350)):
        bound = math.sqrt(6 / fan)
        assert 0.98 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
        assert not layer.bias.any()


def test_mlp_on_vectors():
    assert MLPEncoder((10,), (8,), 3)(torch.randn(4, 10)).shape == (4, 3)
    assert MLPDecoder(3, (), (10,))(torch.randn(5, 4, 3)).shape == (5, 4, 10)


@pytest.mark.parametrize(("size", "stages"), [(28, 2), (28, 3), (7, 3), (33, 4), (3, 2), (2, 1), (28, 5)])
def test_conv_sizes_are_halved_up_and_retraced(size, stages):
    encoder = ConvEncoder((1, size, size + 1), [4] * stages, 3)
    height, width = size, size + 1
    for _ in range(stages):
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    assert encoder.stages(torch.zeros(1, 1, size, size + 1)).shape == (1, 4, height, width)
    decoder = ConvDecoder(3, [4] * stages, (1, size, size + 1))
    assert decoder.first_shape == (4, height, width)
    assert decoder(torch.zeros(2, 3)).shape == (2, 1, size, size + 1)


def test_every_pixel_reaches_the_encoder_and_is_reached_by_the_decoder():
    encoder, decoder = ConvEncoder((1, 9, 11), (4, 4), 3, "tanh"), ConvDecoder(3, (4, 4), (1, 9, 11), "tanh")
    x = torch.randn(1, 9, 11, requires_grad=True)
    (gradient,) = torch.autograd.grad(encoder(x).square().sum(), x)
    assert (gradient != 0).all()
    assert (decoder(torch.randn(3)) != decoder(torch.randn(3))).all()


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_the_output_bias_is_what_the_decoder_gives_without_weights(kind):
    decoder = make_decoder(kind, 3, (5,), (2, 6, 7), "relu")
    bias = torch.randn(2, 6, 7)
    before = decoder(torch.ones(4, 3))
    decoder.set_output_bias(bias)
    torch.testing.assert_close(decoder(torch.ones(4, 3)) - before, bias.expand(4, 2, 6, 7))
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.numel() != bias.numel():
                parameter.zero_()
    torch.testing.assert_close(decoder(torch.randn(4, 3)), bias.expand(4, 2, 6, 7))
    with pytest.raises(InputError, match=r"expected shape \(2, 6, 7\).*got \(7, 6\)"):
        decoder.set_output_bias(torch.zeros(7, 6))


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_wrong_shapes_are_named(kind):
    encoder = make_encoder(kind, (1, 28, 28), (4,), 2)
    with pytest.raises(InputError, match=r"images of shape \(1, 28, 28\), got \(\.\.\., 3, 32, 32\)"):
        encoder(torch.zeros(5, 3, 32, 32))
    with pytest.raises(InputError, match=r"images of shape \(1, 28, 28\), got \(28, 28\)"):
        encoder(torch.zeros(28, 28))
    with pytest.raises(InputError, match=r"decoder expects vectors of shape \(2,\), got \(\.\.\., 3\)"):
        make_decoder(kind, 2, (4,), (1, 28, 28))(torch.zeros(5, 3))


@pytest.mark.parametrize("make", [lambda s, h: ConvEncoder(s, h, 2), lambda s, h: ConvDecoder(2, h, s)])
def test_impossible_conv_networks_are_refused(make):
    with pytest.raises(InputError, match=r"4x28 is too small for 3 stages.*exceed 4"):
        make((1, 4, 28), (4, 4, 4))
    with pytest.raises(InputError, match="at least one stage"):
        make((1, 28, 28), ())
    with pytest.raises(InputError, match=r"\(C, H, W\), got \(784,\)"):
        make((784,), (4,))


def test_names():
    own = nn.Identity()
    assert make_encoder(own, (2,), (), 1) is own
    assert make_decoder(own, 2, (), (1,)) is own
    with pytest.raises(InputError, match=r"unknown encoder 'cnov'\. Did you mean 'conv'"):
        make_encoder("cnov", (2,), (), 1)
    with pytest.raises(InputError, match=r"unknown decoder 'mpl'\. Did you mean 'mlp'"):
        make_decoder("mpl", 2, (), (1,))
    with pytest.raises(InputError, match=r"unknown activation 'reluu'\. Did you mean 'relu'"):
        MLP(2, (3,), 2, "reluu")
    with pytest.raises(InputError, match="must be >= 1"):
        MLP(2, (0,), 2)


@pytest.mark.parametrize(
    ("name", "at_minus_one", "at_two"),
    [
        ("tanh", math.tanh(-1), math.tanh(2)),
        ("relu", 0, 2),
        ("elu", math.expm1(-1), 2),
        ("leaky_relu", -0.01, 2),
        ("gelu", -0.5 * math.erfc(1 / math.sqrt(2)), 2 - math.erfc(math.sqrt(2))),
        ("silu", -1 / (1 + math.e), 2 / (1 + math.exp(-2))),
        ("softplus", math.log1p(math.exp(-1)), math.log1p(math.exp(2))),
        ("sigmoid", 1 / (1 + math.e), 1 / (1 + math.exp(-2))),
    ],
)
def test_activations(name, at_minus_one, at_two):
    expected = torch.tensor([at_minus_one, at_two], dtype=torch.float32)
    torch.testing.assert_close(activation(name)(torch.tensor([-1.0, 2.0])), expected)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_networks_can_be_recorded(kind):
    encoder = make_encoder(kind, (1, 9, 9), (4,), 3)
    x = torch.randn(2, 5, 1, 9, 9)
    recorded = torch.export.export(encoder, (x,), strict=False).module()
    torch.testing.assert_close(recorded(x), encoder(x))
