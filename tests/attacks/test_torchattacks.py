import torch
import torchattacks

from art_oat.attacks import bind
from tests.conftest import make_classifier
from tests.networks import images, labels

LAM = torch.tensor([1.0, 0.1, 0.3, 0.1, 1.0, 0.3, 0.1, 0.4])


def test_an_attack_of_torchattacks_reads_the_classifiers_range_as_0_to_1():
    classifier = make_classifier(clip_values=(-1, 3))
    x, y = 4 * images(dtype=torch.float32) - 1, labels()
    attack = torchattacks.FGSM(classifier.at(1.0).as_module(), eps=0.1)
    delta = (bind(attack, classifier)(x, y, LAM) - x).abs()
    assert delta.max() <= 0.1 * 4 + 1e-5
    assert (delta > 0.1 * 4 - 1e-5).float().mean() > 0.5


class Seeded(torchattacks.attack.Attack):
    """Draws from a seed of its own, as APGD and Square of torchattacks do."""

    def __init__(self, model):
        super().__init__("Seeded", model)
        self.seed = 0

    def forward(self, images, labels):
        torch.manual_seed(self.seed)
        return images * torch.rand_like(images)


def test_attacks_of_torchattacks_that_keep_a_seed_start_anew_in_every_batch_and_repeatably():
    classifier = make_classifier()
    x, y = images(dtype=torch.float32), labels()
    attack = Seeded(classifier.at(1.0).as_module())
    bound = bind(attack, classifier)
    generator = torch.Generator().manual_seed(0)
    first, second = bound(x, y, LAM, generator), bound(x, y, LAM, generator)
    assert not torch.equal(first, second)
    assert torch.equal(bound(x, y, LAM, torch.Generator().manual_seed(0)), first)
    assert attack.seed == 0
