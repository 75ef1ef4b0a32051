import re
import sys
from importlib.util import find_spec

import pytest

from art_oat import OATTrainer
from art_oat.attacks import advlib
from art_oat.attacks.registry import AttackSpec, kind_of, name_faults
from tests.compat.borrowed_torchvision import torchvision_importable
from tests.conftest import make_classifier
from tests.evaluation.subjects import exact_radii, linear_data, plain_classifier, report_of, telling_eps
from tests.networks import images, labels

QUICK = ("apgd", "apgd_targeted", "ddn", "df", "fab", "fmn", "pgd_linf", "sdf", "tr")


@pytest.fixture
def _adv_lib():
    """Skip where adv-lib is not installed; beside a CPU build of torch, torchvision must be helped to load."""
    if find_spec("adv_lib") is None:
        pytest.skip("needs adv-lib")
    with torchvision_importable():
        advlib._library()


@pytest.mark.parametrize(
    ("name", "norm", "eps_step", "message"),
    [
        ("advlib:fmm", "Linf", None, "attack must be one of advlib:alma, advlib:apgd, .*, got 'advlib:fmm'"),
        ("advlib:sigma_zero", "Linf", None, "attack must be one of"),  # for L0, in which there is no ball
        ("advlib:ddn", "Linf", None, "norm must be 'L2' for advlib:ddn, got 'Linf'"),
        ("advlib:fmn-100", "L1", 0.1, "eps_step must be None for advlib:fmn-100, which takes no step, got 0.1"),
    ],
)
def test_what_an_attack_of_adv_lib_does_not_take_is_refused(name, norm, eps_step, message):
    (fault,) = kind_of(name).faults(AttackSpec(name, 0.1, norm, eps_step), "evaluation")
    assert re.search(message, fault)


def test_without_adv_lib_the_error_says_how_it_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "adv_lib", None)
    with pytest.raises(ImportError, match=r"advlib:fmn needs adv_lib. Install it: pip install --no-deps adv-lib"):
        name_faults("advlib:fmn", eps=0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("_adv_lib")
@pytest.mark.parametrize("name", advlib._FUNCTIONS)
def test_on_a_linear_network_an_attack_of_adv_lib_breaks_what_the_exact_one_does_and_nothing_else(name):
    for norm in advlib._FUNCTIONS[name].norms:
        (x, y), classifier = linear_data(12), plain_classifier()
        radii = exact_radii(classifier.model, x, y, norm)
        eps = telling_eps(radii)
        attack = f"advlib:{name}" if name in QUICK else f"advlib:{name}-100"
        report = report_of(classifier, x.numpy(), y.numpy(), attack=attack, eps=eps, norm=norm)
        can_be_robust = (radii > eps).numpy()
        assert (report.is_robust | ~can_be_robust).all()
        assert name not in QUICK or report.is_robust.sum() <= can_be_robust.sum() + 1


@pytest.mark.usefixtures("_adv_lib")
def test_an_attack_of_adv_lib_trains_by_its_name():
    classifier = make_classifier(clip_values=(0, 255))
    x, y = 255 * images(8), labels(8)
    trainer = OATTrainer(classifier, attack="advlib:fmn-3", eps=20)
    (record,) = trainer.fit(x.numpy(), y.numpy(), nb_epochs=1, batch_size=8)
    assert record.loss > 0
