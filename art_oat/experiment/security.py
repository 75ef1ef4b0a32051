"""The accuracy of a run at every radius: what is searched again, what is gone on with, and what is reused."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from art_oat.data import Dataset
from art_oat.evaluation import EvaluationOptions, SecurityCurve, ThreatModel
from art_oat.experiment.ledger import Ledger
from art_oat.experiment.pretrained import pretrained
from art_oat.experiment.run import Run
from art_oat.fingerprint import fingerprint
from art_oat.leftovers import remove_folders
from art_oat.model_files import WEIGHTS, described_by
from art_oat.storage import digest


@dataclass(frozen=True)
class SecuritySearch:
    """What is asked of a search for the nearest wrong answers to test images.

    Args:
        attack: What searches, as ``SecurityCurve.measure`` takes it by name.
        eps_max: The largest radius; None for twice that of the training.
        check: What attacks at the radius of the training, too; None for nothing.
        nb_images: How many test images, in the shares of the classes; all where there are fewer.
    """

    attack: str = "fmn-100x10"
    eps_max: float | None = None
    check: str | None = None
    nb_images: int = 200

    def of(self, run: Run, data: Dataset) -> SecurityCurve:
        """Search at every lam and width of a run, unless it is done already; write ``security.csv`` and ``.png`` there.

        A search that was cut is resumed: what it has found so far lies in a folder ``security-...``.

        Raises:
            RuntimeError: If another process works in the folder.
            ValueError: If something asked for cannot be; names every fault.
        """
        with run.held() as held:
            ledger, table = Ledger(run.folder / "run.json"), run.folder / "security.csv"
            model = digest(run.folder / WEIGHTS, described_by(run.folder))
            settings = {**asdict(self), "model": model, "data": data.test.digest()}
            so_far = run.folder / f"security-{digest(repr(fingerprint(settings)).encode())[:8]}"
            if ledger.holds("security", settings, [table]):
                run.say(f"Reusing the distances in {table}: found of the same weights with the same settings.")
                curve, done = SecurityCurve.from_csv(table), [so_far]
            else:
                curve = self._search(run, data, so_far)
                done = [*run.folder.glob("security-*")]  # this one, and those that were given up
                if held is not None:
                    held.check()
                curve.to_csv(table)
                ledger.keep("security", settings, [table])
            remove_folders(done)
            recipe = run.recipe
            subject = f"{recipe.network} on {Path(recipe.data).name}"
            curve.plot(run.folder / "security.png", subject=subject, eps=recipe.method.eps)
            return curve

    def _search(self, run: Run, data: Dataset, so_far: Path) -> SecurityCurve:
        eps, norm = run.recipe.method.eps, run.recipe.method.norm
        nb_images = min(self.nb_images, len(data.test.x))
        dial = pretrained(run.folder, device_type=run.device_type, trusts_network=run.trusts_network)
        begin = "Going on looking" if so_far.exists() else "Looking"
        run.say(f"{begin} for the nearest errors to {nb_images} of {len(data.test.x)} test images ...")
        return SecurityCurve.measure(
            dial.classifier,
            *data.test,
            eps_max=ThreatModel(2 * eps if self.eps_max is None else self.eps_max, norm),
            attack=self.attack,
            check_eps=() if self.check is None else (eps,),
            check="autoattack" if self.check is None else self.check,
            options=EvaluationOptions(nb_robust=nb_images, state=so_far),
        )
