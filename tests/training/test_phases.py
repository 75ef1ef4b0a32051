import pytest

from art_oat import Method
from art_oat.training.phases import Phases


@pytest.mark.parametrize(
    ("clean_share", "eps_warmup", "nb_clean", "nb_warmup"),
    [(0, 0, 0, 0), (0.5, 0, 4, 0), (0.5, 0.5, 4, 6), (0.99, 0.5, 7, 1.5), (0, 0.75, 0, 18), (0.05, 0.1, 0, 2.4)],
)
def test_the_radius_grows_over_its_share_of_the_steps_after_the_clean_epochs(
    clean_share, eps_warmup, nb_clean, nb_warmup
):
    method = Method(clean_share=clean_share, eps_warmup=eps_warmup)
    phases = Phases.of(method, nb_epochs=8, nb_batches=3, nb_before=0)
    assert [phases.is_clean(epoch) for epoch in range(1, 9)] == [epoch <= nb_clean for epoch in range(1, 9)]
    shares = [phases.eps_share(step) for step in range(3 * nb_clean, 24)]
    assert shares == pytest.approx([min((i + 1) / nb_warmup, 1) if nb_warmup else 1 for i in range(len(shares))])


@pytest.mark.parametrize(("nb_before", "nb_batches"), [(1, 3), (0, None)])
def test_the_radius_is_whole_in_later_calls_and_where_steps_cannot_be_counted(nb_before, nb_batches):
    phases = Phases.of(Method(eps_warmup=0.5), nb_epochs=4, nb_batches=nb_batches, nb_before=nb_before)
    assert {phases.eps_share(step) for step in range(12)} == {1}
