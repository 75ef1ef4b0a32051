"""torchattacks is an extra: all else works without it, and nothing that it pins need be installed."""

import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
HELD_BACK = {"torchattacks", "requests", "idna", "urllib3", "chardet", "charset-normalizer"}
"""torchattacks, what it pins, and what that pins or needs."""

SCRIPT = """
import importlib, pkgutil, sys
sys.modules["torchattacks"] = None  # as if it were not installed
import numpy as np, torch
import art_oat
from art_oat import OATClassifier, OATTrainer, PGD, evaluate, to_conditional
from art_oat.models import SmallCNN

for module in pkgutil.walk_packages(art_oat.__path__, "art_oat."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
model = to_conditional(SmallCNN(channels=(2, 2)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
classifier = OATClassifier(model, torch.nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer, clip_values=(0, 1))
x, y = np.random.default_rng(0).random((8, 1, 8, 8), dtype=np.float32), np.arange(8)
OATTrainer(classifier, PGD(0.1, nb_steps=1)).fit(x, y, nb_epochs=1, batch_size=8)
print(evaluate(classifier, x, y, eps=0.1, attack="pgd-2", lam=1).robust)
try:
    evaluate(classifier, x, y, eps=0.1, attack="torchattacks:PGD", lam=1)
except (ImportError, ValueError) as error:
    print(type(error).__name__, error)
"""


def pins(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(name): version for name, _, version in (it.partition("==") for it in lines) if version}


@pytest.mark.slow
def test_all_of_the_package_works_without_it_and_names_of_its_attacks_say_what_to_install():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"attack torchattacks:PGD needs torchattacks.*pip install art-oat\[torchattacks\]", done.stdout)


def test_the_constraints_without_it_are_those_with_it_but_for_what_it_holds_back():
    with_it, without_it = pins("constraints.txt"), pins("constraints-no-torchattacks.txt")
    assert {name: it for name, it in with_it.items() if name not in HELD_BACK} == {
        name: it for name, it in without_it.items() if name not in HELD_BACK
    }
    assert "torchattacks" not in without_it
    assert int(without_it["requests"].split(".")[1]) > int(with_it["requests"].split(".")[1])


def test_what_is_installed_but_torchattacks_takes_the_versions_of_the_constraints_without_it():
    versions = pins("constraints-no-torchattacks.txt")
    refused = [
        f"{found.name}: {text}"
        for found in distributions()
        if canonicalize_name(found.name) not in HELD_BACK
        for text in found.requires or ()
        for needed in [Requirement(text)]
        if canonicalize_name(needed.name) in HELD_BACK & versions.keys()
        and (needed.marker is None or needed.marker.evaluate({"extra": ""}))
        and not needed.specifier.contains(versions[canonicalize_name(needed.name)])
    ]
    assert not refused
