import math
from typing import get_args

import pytest
import scipy.fft
import torch

from art_oat.layers import Encoding, EncodingKind
from tests.networks import LAMBDAS


def test_random_orthogonal_codes_are_orthonormal():
    table = Encoding(LAMBDAS, "random-orthogonal", 32).double().table
    torch.testing.assert_close(table @ table.T, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-6)


def test_dct_codes_are_the_rows_of_the_orthonormal_dct_matrix():
    expected = scipy.fft.dct(torch.eye(16, dtype=torch.float64).numpy(), axis=0, norm="ortho")[:6]
    torch.testing.assert_close(Encoding(LAMBDAS, "dct", 16).table, torch.from_numpy(expected).float())


def test_one_hot_codes_are_unit_vectors():
    assert torch.equal(Encoding(LAMBDAS, "one-hot", 8).table, torch.eye(8)[:6])


@pytest.mark.parametrize("lam", [0.0, 0.05, 0.3, 0.77, 1.0])
def test_the_scalar_code_is_lam_itself(lam):
    torch.testing.assert_close(Encoding(LAMBDAS, "scalar")(torch.tensor([lam])), torch.tensor([[lam]]))


@pytest.mark.parametrize("kind", get_args(EncodingKind))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_trained_lam_has_its_own_row(kind, dtype):
    encoding = Encoding(LAMBDAS, kind, 16).to(dtype)
    assert torch.equal(encoding(torch.tensor(LAMBDAS, dtype=dtype)), encoding.table)


def test_an_unseen_lam_has_the_interpolation_of_its_neighbors():
    encoding = Encoding((0.0, 0.2, 1.0), "random-orthogonal", 8)
    low, middle, high = encoding.table
    codes = encoding(torch.tensor([0.1, 0.4]))
    torch.testing.assert_close(codes, torch.stack([(low + middle) / 2, 0.75 * middle + 0.25 * high]))


def test_one_lam_has_one_code():
    encoding = Encoding((0.5,), "dct", 8)
    assert torch.equal(encoding(torch.tensor([0.5, 0.5])), encoding.table.expand(2, -1))


def test_codes_are_drawn_from_the_seed_and_travel_with_the_weights():
    encoding, other = (Encoding(LAMBDAS, "random-orthogonal", 16, seed=seed) for seed in (5, 6))
    drawn = encoding.table.clone()
    assert not torch.equal(other.table, drawn)
    encoding.table.zero_()
    encoding.reset_parameters()
    assert torch.equal(encoding.table, drawn)
    other.load_state_dict(encoding.state_dict())
    assert torch.equal(other.table, drawn)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(((lams,), "lambdas must hold distinct") for lams in ((), (0.1, 0.1), (-0.1,), (1.5,), (math.nan,), ("a",))),
        *(((lams,), "at least 1e-06 apart") for lams in ((0.5, 0.5 + 1e-9), (0.0, 1e-40, 1.0), (1.0, 1 - 1e-8))),
        ((LAMBDAS, "fourier"), "encoding must be one of"),
        ((LAMBDAS, "one-hot", 5), "code_dim must be a whole number, at least 6"),
    ],
)
def test_faulty_lambdas_an_unknown_kind_and_a_short_code_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Encoding(*arguments)
