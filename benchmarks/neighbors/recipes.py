"""What the library's recipes gain by logit pairing: each without it, and with it.

As ``Method.dial``, ``Method.robust`` and ``Method.fast``, but that weights are averaged by 0.99 as in ``ablation.py``,
not by 0.999: below 890 steps, as here, both are the same.
"""

from art_oat.training import Method
from benchmarks.neighbors.neighbor import Neighbor
from benchmarks.neighbors.one_step import LESS_NOISE, ONE_STEP, PAIRED, PAIRING

_DIAL = {"sampling": Method.dial().sampling, "clean_share": Method.dial().clean_share}
_ROBUST = {"weight_perturbation": 0.01, "ema": 0.99}
_FAST = {**ONE_STEP, "ema": 0.99}
_LESS_NOISE = {**LESS_NOISE, "ema": 0.99}

NEIGHBORS = {
    "dial": Neighbor("half of the epochs clean, lam 1 five times as often", recipe=_DIAL),
    "dial, logit pairing": Neighbor("dial, paired", PAIRING, {**_DIAL, **PAIRED}, rival="dial"),
    "awp, ema": Neighbor("perturbed and averaged weights", "arXiv:2004.05884", _ROBUST),
    "awp, ema, logit pairing": Neighbor("awp, ema, paired", PAIRING, {**_ROBUST, **PAIRED}, rival="awp, ema"),
    "n-fgsm, ema": Neighbor("one step, averaged weights", "arXiv:2202.01181", _FAST, rival="n-fgsm"),
    "n-fgsm, less noise, ema": Neighbor(
        "one step from noise of 1 eps, averaged weights", "arXiv:2202.01181", _LESS_NOISE, rival="n-fgsm, ema"
    ),
    "n-fgsm, less noise, ema, logit pairing": Neighbor(
        "one step from noise of 1 eps, averaged weights, paired",
        PAIRING,
        {**_LESS_NOISE, **PAIRED},
        rival="n-fgsm, ema",
    ),
}
