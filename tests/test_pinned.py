import copy
import itertools
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from art_oat import OATModel, OperatingPoint, fold, to_conditional
from art_oat.layers import ConditionalLayer, FiLM, Slimmable, Switch, slimmable
from art_oat.layers.batch_norm import DualBatchNorm
from art_oat.models import resnet34
from art_oat.rebuild import contents
from art_oat.training.ema import WeightAverage
from tests.networks import NETWORKS, SLIMMABLE, TRAINED_AND_UNSEEN, WIDTHS, Residual, images, labels, root_norm, shaken

POINT = OperatingPoint(0.3)


@pytest.fixture(params=[1.0, 0.5], ids=["one width", "half width"])
def point(request) -> OperatingPoint:
    return OperatingPoint(0.3, request.param)


@pytest.fixture
def model(point) -> OATModel:
    """Slimmable where the point has a smaller width; else without any layer that knows of widths."""
    return shaken(Residual(), widths=(1.0,) if point.width == 1 else WIDTHS)


def norm_of(model: OATModel, point: OperatingPoint) -> DualBatchNorm:
    norm = model.network.norm
    return norm.at(point.width) if isinstance(norm, Switch) else norm


def film_of(model: OATModel) -> FiLM:
    return norm_of(model, OperatingPoint(0.0)).film


def head_of(model: OATModel) -> nn.Linear:
    return model.network.head


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


def test_a_live_network_at_many_lams_gives_the_scores_and_gradients_of_the_conditional_one(model, point):
    x, lam = images(), torch.tensor(TRAINED_AND_UNSEEN, dtype=torch.float64).flip(0)
    live = model.live_network(point.width)
    live.set_lam(lam)
    torch.testing.assert_close(live(x), model(x, lam, point.width))
    torch.testing.assert_close(input_gradient(live, x), input_gradient(lambda x: model(x, lam, point.width), x))


def test_a_live_network_refuses_a_batch_that_does_not_fit_its_lams(model):
    live = model.live_network()
    live.set_lam(torch.zeros(8))
    with pytest.raises(RuntimeError, match="set to 8 lams, one per sample, got 1 samples"):
        live(images(1))


@pytest.mark.parametrize("make", NETWORKS)
def test_a_pinned_network_is_of_the_original_architecture_without_converted_layers(make):
    pinned = shaken(make()).pinned(POINT)
    assert not any(isinstance(part, ConditionalLayer) for part in pinned.modules())
    if make is not root_norm:  # whose only layer is the converted one
        assert type(pinned.network) is type(make())


@pytest.mark.parametrize("make", SLIMMABLE)
@pytest.mark.parametrize("width", WIDTHS)
def test_at_every_width_it_has_the_layers_of_the_network_that_is_built_there(make, width):
    pinned = shaken(make(), widths=WIDTHS).pinned(OperatingPoint(0.3, width)).network
    assert type(pinned) is type(make())
    for path, layer in make(width).named_modules():
        if not isinstance(layer, nn.modules.batchnorm._BatchNorm) and not list(layer.children()):
            assert repr(pinned.get_submodule(path)) == repr(layer)
    assert not any(isinstance(part, ConditionalLayer | Slimmable | Switch) for part in pinned.modules())


def test_weights_are_shared_and_want_no_gradient(model, point):
    pinned = model.pinned(point)
    trained = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    assert {tensor.untyped_storage().data_ptr() for tensor in pinned.parameters()} < trained
    assert not any(parameter.requires_grad for parameter in pinned.parameters())


def sgd_step(model: OATModel, point: OperatingPoint, lr: float = 0.5, **options: bool) -> None:
    optimizer_step(model, point, torch.optim.SGD(model.parameters(), lr=lr, **options))


def adam_step(model: OATModel, point: OperatingPoint, **options: bool) -> None:
    optimizer_step(model, point, torch.optim.Adam(model.parameters(), lr=0.1, **options))


def optimizer_step(model: OATModel, point: OperatingPoint, optimizer: torch.optim.Optimizer) -> None:
    lam = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 1.0, 0.3, 0.3], dtype=torch.float64)
    nn.functional.cross_entropy(model.eval()(images(), lam, point.width), labels()).backward()
    optimizer.step()


def statistics_alone(model: OATModel, point: OperatingPoint) -> None:
    with torch.no_grad():
        model.train()(images(), *point)
    model.eval()


def load(model: OATModel, point: OperatingPoint, **options: bool) -> None:
    model.load_state_dict({name: tensor * 1.5 for name, tensor in model.state_dict().items()}, **options)


def exchange_weights(model: OATModel, point: OperatingPoint) -> None:
    head, film = head_of(model), film_of(model)
    head.weight = nn.Parameter(head.weight.detach() * 2)
    film.output.weight = nn.Parameter(film.output.weight.detach() + 1)


def exchange_layer(model: OATModel, point: OperatingPoint) -> None:
    head, exchanged = model.network.head, nn.Linear(8, 5).double()
    model.network.head = slimmable(exchanged, head._slim_channels) if isinstance(head, Slimmable) else exchanged


def take_out(model: OATModel, point: OperatingPoint) -> None:
    head_of(model).bias = None


def there_and_back(model: OATModel, point: OperatingPoint) -> None:
    sgd_step(model.float().double(), point)


def write_in_place(model: OATModel, point: OperatingPoint) -> None:
    with torch.no_grad():
        head_of(model).weight.mul_(2)
        norm_of(model, point).adversarial.running_mean.add_(1)


def write_data(model: OATModel, point: OperatingPoint) -> None:
    norm_of(model, point).adversarial.weight.data.mul_(2)
    model.refresh()


def install_average(model: OATModel, point: OperatingPoint) -> None:
    average = WeightAverage([*model.parameters(), *model.buffers()], 0.05)
    write_in_place(model, point)
    average.update()
    average.install()


CHANGES = {
    "plain SGD": lambda *at: sgd_step(*at, foreach=False, fused=False),
    "foreach SGD": lambda *at: sgd_step(*at, foreach=True),
    "fused SGD": lambda *at: sgd_step(*at, fused=True),
    "plain Adam": lambda *at: adam_step(*at, foreach=False, fused=False),
    "foreach Adam": lambda *at: adam_step(*at, foreach=True),
    "fused Adam": lambda *at: adam_step(*at, fused=True),
    "statistics alone": statistics_alone,
    "load_state_dict": load,
    "load_state_dict(assign=True)": lambda *at: load(*at, assign=True),
    "exchanged parameters": exchange_weights,
    "an exchanged layer": exchange_layer,
    "a tensor that is taken out": take_out,
    ".to() and a step": there_and_back,
    "in-place operations": write_in_place,
    ".data and refresh()": write_data,
    "a moving average": install_average,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_pinned_network_made_before_a_change_follows_it(model, point, change):
    pinned = model.pinned(point)
    before = pinned(images())
    change(model, point)
    after = pinned(images())
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, model(images(), *point))
    torch.testing.assert_close(fold(model, point)(images()), after)


@pytest.mark.parametrize("heads", ["shared", "per-width"])
@pytest.mark.parametrize("width", WIDTHS)
def test_training_one_width_moves_the_pinned_networks_of_the_others_by_the_shared_weights(heads, width):
    model = shaken(Residual(), widths=WIDTHS, heads=heads)
    points = [OperatingPoint(0.3, each) for each in WIDTHS]
    networks = [model.pinned(point) for point in points]
    before = [network(images()) for network in networks]
    sgd_step(model, OperatingPoint(0.3, width))
    for point, network, answer in zip(points, networks, before, strict=True):
        assert not torch.allclose(network(images()), answer)
        torch.testing.assert_close(network(images()), model(images(), *point))


def test_a_pinned_network_follows_its_model_to_another_dtype_and_layout(model, point):
    pinned = model.pinned(point)
    model.float()
    assert pinned(images()).dtype == torch.float32
    torch.testing.assert_close(pinned(images()), model(images(), *point))
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(pinned(images()), model(images(), *point))
    sgd_step(model.double(), point)
    torch.testing.assert_close(pinned(images()), model(images(), *point))


def test_a_model_changed_in_inference_mode_is_followed(model, point):
    pinned = model.pinned(point)
    with torch.inference_mode():
        model.float()
        torch.testing.assert_close(pinned(images()), model(images(), *point))


def test_a_new_tensor_in_the_memory_of_an_old_one_is_noticed(model, point):
    pinned, output = model.pinned(point), film_of(model).output
    for value in range(5):
        shape = output.weight.shape
        output.weight = None  # frees the memory that the next line is likely to get
        output.weight = nn.Parameter(torch.full(shape, float(value), dtype=torch.float64))
        torch.testing.assert_close(pinned(images()), model(images(), *point))


def test_autocast_around_one_call_leaves_nothing_behind(point):
    model = shaken(Residual(), torch.float32, widths=WIDTHS)
    pinned, x = model.pinned(point), images(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        pinned(x)
        folded = fold(model, point)
    torch.testing.assert_close(pinned(x), model(x, *point), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(folded(x), model(x, *point), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", [write_in_place, exchange_layer], ids=["a weight", "a layer"])
def test_a_change_noticed_within_a_transform_of_torch_func_is_followed_there_and_after_it(model, point, change):
    pinned, x = model.pinned(point), images()
    change(model, point)

    def score(x: Tensor) -> Tensor:
        return pinned(x).square().sum()

    found = torch.func.grad(score)(x)
    leaf = x.clone().requires_grad_()
    score(leaf).backward()
    torch.testing.assert_close(found, leaf.grad)
    torch.testing.assert_close(pinned(x), model(x, *point))


def test_a_training_pass_is_followed_even_if_it_was_read_in_the_middle(model, point, monkeypatch):
    pinned, batch_norm = model.pinned(point), nn.functional.batch_norm

    def read_early(*arguments, **options):
        pinned(images())  # a thread that comes in when the pass is counted, but the statistics are not written yet
        return batch_norm(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(nn.functional, "batch_norm", read_early)
        statistics_alone(model, point)
    torch.testing.assert_close(pinned(images()), model(images(), *point))


def test_asked_into_training_mode_it_stays_in_evaluation_mode():
    model = shaken(NETWORKS[3]())  # has dropout
    pinned = model.pinned(POINT)
    expected = pinned(images())
    assert not pinned.train().training
    model.train()
    assert torch.equal(pinned(images()), expected)


def test_it_cannot_be_moved_without_its_model(model, point):
    pinned = model.pinned(point)
    assert pinned.to("cpu") is pinned
    with pytest.raises(RuntimeError, match="Move the model, or fold it"):
        pinned.float()


def test_the_same_point_is_the_same_network_and_the_cache_is_bounded(model, point):
    assert model.pinned(point) is model.pinned(OperatingPoint(0.3, point.width))
    assert len({id(model.pinned(OperatingPoint(0.3, width))) for width in model.widths}) == len(model.widths)
    for step, width in itertools.product(range(100), model.widths):
        model.pinned(OperatingPoint(step / 100, width))
    assert len(model._pinned) <= 64


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda view: pickle.loads(pickle.dumps(view))])
def test_a_copy_of_it_follows_the_copy_of_its_model(model, point, make_copy):
    pinned = model.pinned(point)
    twin = make_copy(pinned)
    assert twin.model is not model
    torch.testing.assert_close(twin(images()), pinned(images()), rtol=0, atol=0)
    with torch.no_grad():
        head_of(twin.model).bias.add_(1)
    torch.testing.assert_close(twin(images()), pinned(images()) + 1)


def test_made_in_inference_mode_it_still_gives_gradients(model, point):
    with torch.inference_mode():
        pinned = model.pinned(point)
        pinned(images())
    assert input_gradient(pinned, images()).abs().sum() > 0


def test_eight_threads_at_random_points_give_the_sequential_answers():
    model = shaken(Residual(), widths=WIDTHS)
    generator = torch.Generator().manual_seed(0)
    lams = torch.rand(200, generator=generator).double().round(decimals=1).tolist()
    widths = torch.randint(len(WIDTHS), (200,), generator=generator).tolist()
    points = [OperatingPoint(lam, WIDTHS[index]) for lam, index in zip(lams, widths, strict=True)]
    expected = [model(images(), *point).detach() for point in points]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda point: model.pinned(point)(images()), points))
    torch.testing.assert_close(answers, expected)


def test_threads_that_predict_during_training_see_its_end(model, point):
    pinned, stop = model.pinned(point), threading.Event()

    def predict() -> None:
        while not stop.is_set():
            pinned(images())

    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(predict) for _ in range(4)]
        for _ in range(20):
            sgd_step(model, point, lr=0.01, fused=True)
        stop.set()
        for run in runs:
            run.result()
    torch.testing.assert_close(pinned(images()), model(images(), *point))


def test_threads_at_other_widths_do_not_disturb_a_training_pass():
    """The width of a pass belongs to its thread."""
    model, x = shaken(Residual(), widths=WIDTHS), images()
    expected = {width: model(x, 0.3, width).detach() for width in WIDTHS}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda width: (width, model(x, 0.3, width).detach()), [*WIDTHS] * 30))
    for width, answer in answers:
        assert torch.equal(answer, expected[width])


def storages(*roots: object) -> dict[int, int]:
    """Bytes of every storage that is reachable, by address."""
    found, seen, pending = {}, {}, [*roots]
    while pending:
        holder = pending.pop()
        if id(holder) in seen:
            continue
        seen[id(holder)] = holder  # held: its id could else be given to another
        if isinstance(holder, torch.Tensor):
            storage = holder.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        pending += contents(holder)
    return found


@pytest.mark.slow(seconds=14)
@pytest.mark.parametrize("film", ["linear", "published"])
def test_all_points_of_the_published_network_at_once_take_a_fiftieth_of_its_weights(film):
    model = to_conditional(resnet34(), widths=(0.5, 0.75, 1.0), film=film, encoding="random-orthogonal")
    networks = [model.pinned(lam=lam, width=width) for lam in model.lambdas for width in model.widths]
    for network in networks:
        network(torch.rand(1, 3, 32, 32))
    own, plain = storages(model.network, model.encoding), storages(*fold(model).parameters())
    added = {place: size for place, size in storages(*networks).items() if place not in own}
    assert len(networks) == 18
    # a scale and a shift of 8512 channels at 18 points, of width 0.75 in the mean, for 21 million weights
    assert 0 < sum(added.values()) < 0.02 * sum(plain.values())
