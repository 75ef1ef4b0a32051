import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_oat.attacks import DDN, FMN
from art_oat.data import digits
from tests.evaluation.subjects import Linear, exact_radii, linear_data, plain_classifier, report_of, telling_eps


def test_on_a_linear_network_of_two_classes_the_nearest_error_is_at_margin_over_norm():
    network, (x, _) = Linear(2), linear_data(32)
    y = network(x).argmax(dim=1)
    exact = exact_radii(network, x, y, "L2")
    far, _ = DDN(10.0).nearest(network, x, y)
    assert (far >= exact * (1 - 1e-4)).all()
    assert (far <= exact * 1.01).all()  # the radius last changed by 0.1% a step


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A network that was trained on digits, and some that it answers right."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.3, momentum=0.9)
    x, y = (torch.from_numpy(part) for part in digits().train)
    for batch in torch.cat([torch.randperm(len(x)) for _ in range(10)]).split(128):
        optimizer.zero_grad()
        F.cross_entropy(network(x[batch]), y[batch]).backward()
        optimizer.step()
    is_right = network(x).argmax(dim=1) == y
    return network.eval(), x[is_right][:100], y[is_right][:100]


def test_on_a_trained_network_it_and_one_run_of_fmn_find_errors_about_as_near(trained):
    network, x, y = trained
    own, other = (attack.nearest(network, x, y, clip_values=(0, 1))[0] for attack in (DDN(4.0), FMN(4.0, "L2")))
    assert own.isfinite().all()
    assert own.mean() == pytest.approx(other.mean().item(), rel=0.05)  # margin against cross-entropy: 1 to 4 percent


def test_by_name_it_evaluates_exactly_in_l2_and_is_refused_in_linf():
    classifier, (x, _) = plain_classifier(nb_classes=2), linear_data(12)
    y = classifier.model(x).argmax(dim=1)
    exact = exact_radii(classifier.model, x, y, "L2")
    eps = telling_eps(exact)
    report = report_of(classifier, x.numpy(), y.numpy(), attack="ddn-50", eps=eps, norm="L2")
    assert report.is_robust.tolist() == (exact > eps).tolist()
    with pytest.raises(ValueError, match="norm must be 'L2' for ddn-50, got 'Linf'"):
        report_of(classifier, x.numpy(), y.numpy(), attack="ddn-50", eps=eps)
