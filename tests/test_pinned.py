import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from art_oat import OATModel, OperatingPoint, fold
from art_oat.layers import ConditionalLayer
from tests.networks import NETWORKS, TRAINED_AND_UNSEEN, images, labels, root_norm, shaken

POINT = OperatingPoint(0.3)


def input_gradient(network, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (scores,) = torch.autograd.grad(network(x).square().sum(), x)
    return scores


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("lam", TRAINED_AND_UNSEEN)
def test_a_pinned_network_gives_the_scores_and_gradients_of_the_conditional_one(make, lam):
    model, x = shaken(make()), images()
    pinned = model.pinned(OperatingPoint(lam))
    torch.testing.assert_close(pinned(x), model(x, lam=lam))
    torch.testing.assert_close(input_gradient(pinned, x), input_gradient(lambda x: model(x, lam=lam), x))


def test_a_replica_aimed_at_many_lams_gives_the_scores_and_gradients_of_the_conditional_one(model):
    x, lam = images(), torch.tensor(TRAINED_AND_UNSEEN, dtype=torch.float64).flip(0)
    replica = model.replica()
    replica.aim(lam)
    torch.testing.assert_close(replica(x), model(x, lam))
    torch.testing.assert_close(input_gradient(replica, x), input_gradient(lambda x: model(x, lam), x))


def test_a_replica_refuses_a_batch_that_does_not_fit_its_lams(model):
    replica = model.replica()
    replica.aim(torch.zeros(8))
    with pytest.raises(RuntimeError, match="aimed at 8 lams, one per sample, got 1 samples"):
        replica(images(1))


@pytest.mark.parametrize("make", NETWORKS)
def test_a_pinned_network_is_of_the_original_architecture_without_converted_layers(make):
    pinned = shaken(make()).pinned(POINT)
    assert not any(isinstance(part, ConditionalLayer) for part in pinned.modules())
    if make is not root_norm:  # whose only layer is the converted one
        assert type(pinned.network) is type(make())


def test_weights_are_shared_and_want_no_gradient(model):
    pinned = model.pinned(POINT)
    assert pinned.network.head.weight.data_ptr() == model.network.head.weight.data_ptr()
    assert not any(parameter.requires_grad for parameter in pinned.parameters())


def sgd_step(model: OATModel, **options: bool) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, **options)
    optimizer_step(model, optimizer)


def optimizer_step(model: OATModel, optimizer: torch.optim.Optimizer) -> None:
    lam = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 1.0, 0.3, 0.3], dtype=torch.float64)
    nn.functional.cross_entropy(model.eval()(images(), lam), labels()).backward()
    optimizer.step()


def adam_step(model: OATModel, **options: bool) -> None:
    optimizer_step(model, torch.optim.Adam(model.parameters(), lr=0.1, **options))


def statistics_alone(model: OATModel) -> None:
    with torch.no_grad():
        model.train()(images(), lam=0.3)
    model.eval()


def load(model: OATModel, **options: bool) -> None:
    model.load_state_dict({name: tensor * 1.5 for name, tensor in model.state_dict().items()}, **options)


def exchange_weights(model: OATModel) -> None:
    model.network.head.weight = nn.Parameter(model.network.head.weight.detach() * 2)
    model.network.norm.film.output.bias = nn.Parameter(model.network.norm.film.output.bias.detach() + 1)


def there_and_back(model: OATModel) -> None:
    sgd_step(model.float().double())


def write_data(model: OATModel) -> None:
    model.network.norm.adversarial.weight.data.mul_(2)
    model.refresh()


CHANGES = {
    "plain SGD": lambda model: sgd_step(model, foreach=False, fused=False),
    "foreach SGD": lambda model: sgd_step(model, foreach=True),
    "fused SGD": lambda model: sgd_step(model, fused=True),
    "plain Adam": lambda model: adam_step(model, foreach=False, fused=False),
    "foreach Adam": lambda model: adam_step(model, foreach=True),
    "fused Adam": lambda model: adam_step(model, fused=True),
    "statistics alone": statistics_alone,
    "load_state_dict": load,
    "load_state_dict(assign=True)": lambda model: load(model, assign=True),
    "exchanged parameters": exchange_weights,
    ".to() and a step": there_and_back,
    ".data and refresh()": write_data,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_pinned_network_made_before_a_change_follows_it(model, change):
    pinned = model.pinned(POINT)
    before = pinned(images())
    change(model)
    after = pinned(images())
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, model(images(), *POINT))


def test_a_pinned_network_follows_its_model_to_another_dtype(model):
    pinned = model.pinned(POINT)
    model.float()
    assert pinned(images()).dtype == torch.float32


def test_it_takes_up_exchanged_modules_after_a_refresh(model):
    pinned = model.pinned(POINT)
    model.network.head = nn.Linear(8, 3).double()
    model.refresh()
    assert pinned(images()).shape == (8, 3)
    torch.testing.assert_close(pinned(images()), model(images(), *POINT))


def test_a_model_changed_in_inference_mode_is_followed(model):
    pinned = model.pinned(POINT)
    with torch.inference_mode():
        model.float()
        torch.testing.assert_close(pinned(images()), model(images(), *POINT))


def test_a_new_tensor_in_the_memory_of_an_old_one_is_noticed(model):
    pinned, output = model.pinned(POINT), model.network.norm.film.output
    for value in range(5):
        output.bias = None  # frees the memory that the next line is likely to get
        output.bias = nn.Parameter(torch.full((16,), float(value), dtype=torch.float64))
        torch.testing.assert_close(pinned(images()), model(images(), *POINT))


def test_a_tensor_that_is_taken_out_is_noticed(model):
    pinned = model.pinned(POINT)
    model.network.head.bias = None
    torch.testing.assert_close(pinned(images()), model(images(), *POINT))


def test_autocast_around_one_call_leaves_nothing_behind():
    model = shaken(NETWORKS[0](), torch.float32)
    pinned, x = model.pinned(POINT), images(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        pinned(x)
        folded = fold(model, POINT)
    torch.testing.assert_close(pinned(x), model(x, *POINT), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(folded(x), model(x, *POINT), rtol=1e-4, atol=1e-5)


def test_a_training_pass_is_followed_even_if_it_was_read_in_the_middle(model, monkeypatch):
    pinned, batch_norm = model.pinned(POINT), nn.functional.batch_norm

    def read_early(*arguments, **options):
        pinned(images())  # a thread that comes in when the pass is counted, but the statistics are not written yet
        return batch_norm(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(nn.functional, "batch_norm", read_early)
        statistics_alone(model)
    torch.testing.assert_close(pinned(images()), model(images(), *POINT))


def test_asked_into_training_mode_it_stays_in_evaluation_mode():
    model = shaken(NETWORKS[3]())  # has dropout
    pinned = model.pinned(POINT)
    expected = pinned(images())
    assert not pinned.train().training
    model.train()
    assert torch.equal(pinned(images()), expected)


def test_it_cannot_be_moved_without_its_model(model):
    pinned = model.pinned(POINT)
    assert pinned.to("cpu") is pinned
    with pytest.raises(RuntimeError, match="Move the model, or fold it"):
        pinned.float()


def test_the_same_point_is_the_same_network_and_the_cache_is_bounded(model):
    assert model.pinned(POINT) is model.pinned(OperatingPoint(0.3, 1.0))
    for step in range(200):
        model.pinned(OperatingPoint(step / 200))
    assert len(model._pinned) <= 64


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda view: pickle.loads(pickle.dumps(view))])
def test_a_copy_of_it_follows_the_copy_of_its_model(model, make_copy):
    pinned = model.pinned(POINT)
    twin = make_copy(pinned)
    assert twin.model is not model
    torch.testing.assert_close(twin(images()), pinned(images()), rtol=0, atol=0)
    with torch.no_grad():
        twin.model.network.head.bias.add_(1)
    torch.testing.assert_close(twin(images()), pinned(images()) + 1)


def test_made_in_inference_mode_it_still_gives_gradients(model):
    with torch.inference_mode():
        pinned = model.pinned(POINT)
        pinned(images())
    assert input_gradient(pinned, images()).abs().sum() > 0


def test_eight_threads_at_random_points_give_the_sequential_answers(model):
    lams = torch.rand(200, generator=torch.Generator().manual_seed(0)).double().round(decimals=1).tolist()
    expected = [model(images(), lam=lam).detach() for lam in lams]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda lam: model.pinned(OperatingPoint(lam))(images()), lams))
    torch.testing.assert_close(answers, expected)


def test_threads_that_predict_during_training_see_its_end(model):
    pinned, stop = model.pinned(POINT), threading.Event()

    def predict() -> None:
        while not stop.is_set():
            pinned(images())

    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(predict) for _ in range(4)]
        for _ in range(20):
            sgd_step(model, fused=True)
        stop.set()
        for run in runs:
            run.result()
    torch.testing.assert_close(pinned(images()), model(images(), *POINT))
