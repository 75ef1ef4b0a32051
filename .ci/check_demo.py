"""Check the demo's measurements against what is promised of it."""

import itertools
import sys

from art_oat import TradeoffCurve

curve = TradeoffCurve.from_csv(sys.argv[1])
by_lam = {point.lam: point for point in curve.points}
accurate, robust = by_lam[0.0], by_lam[1.0]
claims = {
    "clean accuracy at lam 0 is at least 0.92": accurate.clean >= 0.92,
    "clean accuracy at lam 1 is at least 0.03 below lam 0": accurate.clean - robust.clean >= 0.03,
    "AutoAttack at lam 1 is at least 0.15 above lam 0": (
        robust.by_attack["autoattack"] - accurate.by_attack["autoattack"] >= 0.15
    ),
    "AutoAttack is at or below PGD-20 at every lam": all(
        point.by_attack["autoattack"] <= point.by_attack["pgd-20"] for point in curve.points
    ),
    "robust accuracy rises with lam, to within two standard errors": all(
        later.robust >= earlier.robust - 2 * earlier.robust_error
        for earlier, later in itertools.combinations(curve.points, 2)
    ),
}
for claim, holds in claims.items():
    sys.stdout.write(f"{'holds' if holds else 'FAILS'}: {claim}\n")
sys.exit(not all(claims.values()))
