import importlib
from importlib.util import find_spec

import pytest

from art_oat import OATTrainer, TradeoffCurve
from art_oat.attacks import secmltorch
from art_oat.attacks.registry import AttackSpec, kind_of
from tests.compat.borrowed_torchvision import torchvision_importable
from tests.conftest import make_classifier
from tests.evaluation.subjects import (
    Linear,
    exact_radii,
    grouped,
    linear_data,
    plain_classifier,
    report_of,
    telling_eps,
)
from tests.networks import images, labels


@pytest.fixture
def _secmlt():
    """Skip where secml-torch is not installed; it imports torchvision where adv-lib is there, too."""
    if find_spec("secmlt") is None:
        pytest.skip("needs secml-torch")
    with torchvision_importable():
        importlib.import_module("secmlt.adv.evasion")


@pytest.mark.usefixtures("_secmlt")
@pytest.mark.parametrize(
    ("name", "norm"), [(name, norm) for name, norms in secmltorch._NORMS.items() for norm in norms]
)
def test_on_a_linear_network_an_attack_breaks_what_the_exact_one_does_and_nothing_else(name, norm):
    span = 255 if norm == "L2" else 1
    (x, y), classifier = linear_data(12), plain_classifier(Linear(span=span), clip_values=(0, span))
    radii = exact_radii(Linear(), x, y, norm)
    eps, can_be_robust = telling_eps(radii), (radii > telling_eps(radii)).numpy()
    report = report_of(classifier, span * x.numpy(), y.numpy(), attack=f"secmltorch:{name}", eps=span * eps, norm=norm)
    assert (report.is_robust | ~can_be_robust).all()
    assert report.is_robust.sum() <= can_be_robust.sum() + 1


@pytest.mark.parametrize(
    ("name", "norm", "eps_step", "message"),
    [
        ("secmltorch:CW", "L2", None, "attack must be one of secmltorch:DDN, secmltorch:FMN, secmltorch:PGD, got"),
        ("secmltorch:DDN", "Linf", None, "norm must be 'L2' for secmltorch:DDN, got 'Linf'"),
        ("secmltorch:FMN", "L2", 0.1, "eps_step must be None for secmltorch:FMN"),
    ],
)
def test_what_an_attack_of_secml_torch_does_not_take_is_refused(name, norm, eps_step, message):
    (fault,) = kind_of(name).faults(AttackSpec(name, 0.1, norm, eps_step), "evaluation")
    assert message in fault


@pytest.mark.usefixtures("_secmlt")
def test_an_attack_of_secml_torch_trains_and_measures_a_curve_by_its_name():
    classifier, x, y = make_classifier(), images(8).float().numpy(), labels(8).numpy()
    OATTrainer(classifier, attack="secmltorch:PGD-2", eps=0.1, eps_step=0.05).fit(x, y, nb_epochs=1, batch_size=8)
    curve = TradeoffCurve.measure(classifier, x, y, **grouped(eps=0.1, attack="secmltorch:FMN-3"), lambdas=(0, 1))
    assert [point.lam for point in curve.points] == [0, 1]
    assert all(point.robust <= point.clean for point in curve.points)
