"""A step that is computed in parts is the step of the whole batch."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from art_oat import PGD, Method, OATClassifier, OATTrainer, WeightPerturbation, to_conditional
from tests.networks import conv
from tests.processes import in_processes

X = torch.rand(21, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).numpy()
Y = torch.arange(21).remainder(5).numpy()
WEIGHTS = torch.tensor([1.0, 2, 0.5, 1, 3], dtype=torch.float64)


def trained(
    nb_parts: int, *, widths: tuple[float, ...] = (1.0,), weight: Tensor | None = None, dtype=torch.float64, **method
):
    """Train a network whose norms compute no statistics over samples, three steps long; the last batch is smaller."""
    torch.manual_seed(0)
    network = nn.Sequential(
        conv(1, 8), nn.GroupNorm(2, 8), nn.ReLU(), conv(8, 8), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 36, 5),
    ).to(dtype)  # fmt: skip
    model = to_conditional(network, (0, 0.5, 1), widths=widths, input_shape=(1, 6, 6))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    loss = nn.CrossEntropyLoss(weight=None if weight is None else weight.to(dtype))
    classifier = OATClassifier(model, loss, (1, 6, 6), 5, optimizer, clip_values=(0, 1))
    method = {"attack": PGD(0.1, nb_steps=2)} | method
    trainer = OATTrainer(classifier, Method(accumulation_steps=nb_parts, **method))
    trainer.fit(X.astype(str(dtype).removeprefix("torch.")), Y, nb_epochs=1, batch_size=9, verbose=False)
    return model.state_dict(), trainer.history[0]


@pytest.mark.parametrize("nb_parts", [2, 4, 30])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_grad_norm": 0.1},
        {"weight": WEIGHTS},
        {"loss": "trades", "weight_perturbation": WeightPerturbation(0.05)},
        {"widths": (0.5, 1.0), "width_sampling": "all", "distills": True},
        {"clean_share": 0.5},
    ],
    ids=lambda it: ", ".join(it) or "plain",
)
def test_whole_steps_in_parts_give_the_weights_and_the_record_of_steps_at_once(options, nb_parts):
    """Attack, random start included: 30 parts of at most 9 samples, some without one that is attacked."""
    (whole, record), (parts, record_of_parts) = trained(1, **options), trained(nb_parts, **options)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-10, atol=1e-10, msg=name)
    assert record_of_parts.loss == pytest.approx(record.loss, rel=1e-10)
    assert (record_of_parts.clean, record_of_parts.robust) == (record.clean, record.robust)


@pytest.mark.slow(seconds=1)
@pytest.mark.parametrize("options", [{}, {"clip_grad_norm": 0.1, "weight": WEIGHTS}], ids=["plain", "clipped"])
@pytest.mark.parametrize("nb_parts", [1, 2, 30])
def test_processes_that_each_compute_their_rows_in_parts_train_as_one_at_once(options, nb_parts, tmp_path):
    """Two processes; the last batch has 3 samples, so that a process has one or two, and no more parts."""
    whole, record = trained(1, **options)
    found = in_processes(2, tmp_path, partial(trained, nb_parts, **options))
    for parts, record_of_parts in found:
        for name, value in whole.items():
            torch.testing.assert_close(parts[name], value, rtol=1e-10, atol=1e-10, msg=name)
        assert record_of_parts.loss == pytest.approx(record.loss, rel=1e-10)
        assert (record_of_parts.clean, record_of_parts.robust) == (record.clean, record.robust)


@pytest.mark.slow(seconds=1)
def test_processes_that_compute_in_bf16_stay_alike_and_train_as_one_to_its_rounding(tmp_path):
    """What they differ by is a sum of rounded parts, far less than what bfloat16 itself does to the weights.

    The one computes in two parts, since kernels round batches of another size otherwise, how much so is up to the
    processor.
    """
    train = partial(trained, dtype=torch.float32)
    rounded = partial(train, precision="bf16", attack_precision="float32")  # x_adv jumps where a sign changes
    (exact, _), (one, _) = train(1), rounded(2)
    (first, _), (second, _) = in_processes(2, tmp_path, partial(rounded, 1))
    deviations = []
    for name, value in one.items():
        assert torch.equal(first[name], second[name]), name
        deviations.append([(value - other[name]).norm() for other in (first, exact)])
    of_processes, of_rounding = torch.tensor(deviations).norm(dim=0)
    assert 0 < of_processes < of_rounding / 4


def test_less_is_kept_for_the_backward_pass():
    kept = []
    for nb_parts in (1, 4):
        largest = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal largest
            largest = max(largest, tensor.numel() if tensor.dim() == 4 else 0)  # features, not the weights of the head
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda it: it):
            trained(nb_parts)
        kept.append(largest)
    assert kept[1] < 0.5 * kept[0]


def test_norms_of_all_processes_go_with_whole_batches_alone():
    with pytest.raises(ValueError, match="sync_norms must be False with accumulation_steps above 1"):
        Method(accumulation_steps=2, sync_norms=True)
