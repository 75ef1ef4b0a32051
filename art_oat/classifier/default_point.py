"""What ART asks of a conditional network without naming an operating point is answered at the default one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from art.data_generators import DataGenerator, PyTorchDataGenerator
from art.estimators.classification import PyTorchClassifier
from torch import Tensor

from art_oat.checks import Array, as_array, refuse, warn_caller
from art_oat.classifier.base import PointClassifier
from art_oat.classifier.fit_data import CheckedLoader, art_labels, fit_faults
from art_oat.classifier.pinned import PinnedClassifier
from art_oat.condition import OperatingPoint
from art_oat.levels import as_floats
from art_oat.model import OATModel
from art_oat.numbers import count_faults, plain


class DefaultPointWarning(UserWarning):
    """What is attacked or trained is the default point, which nobody has set: lam 0, the least robust one."""


class DefaultPointClassifier(PointClassifier):
    """A classifier of a conditional network: what names no operating point works at the default one.

    Until ``lam`` is set, what attacks differentiate, and training, warn once that they work at the least robust point.
    """

    estimator_params: ClassVar[list[str]] = [*PyTorchClassifier.estimator_params, "lam", "width"]
    _told: frozenset[str] = frozenset()

    @property
    def _dtype(self) -> torch.dtype:
        return self.model.encoding.table.dtype

    @property
    def model(self) -> OATModel:
        """The conditional network. Parts of ART that take it out of a classifier find it at the default point."""
        model: OATModel = self._model._model
        return model

    @property
    def lam(self) -> float:
        """The default lam, in ``[0, 1]``, or beyond up to ``model.farthest``; kept in ``model.default_point``."""
        return self.model.default_point.lam

    @lam.setter
    def lam(self, lam: float) -> None:
        self.model.default_point = OperatingPoint(lam, self.width)

    @property
    def width(self) -> float:
        """The default width, one of the trained ones; kept in ``model.default_point``."""
        return self.model.default_point.width

    @width.setter
    def width(self, width: float) -> None:
        with self._lam_as_named():
            self.model.default_point = OperatingPoint(self.lam, width)

    @contextmanager
    def _lam_as_named(self) -> Iterator[None]:
        """Let the block leave open whether somebody has named the default lam, if it was open before."""
        is_lam_named = self.model.is_lam_named
        try:
            yield
        finally:
            self.model.is_lam_named = is_lam_named

    def _tell(self, what: str, message: str) -> None:
        """Warn once of what is done at a default point that nobody has named."""
        if what in self._told or self.model.is_lam_named or len(self.model.lambdas) == 1:
            return
        self._told |= {what}
        warn_caller(f"{message} If this lam is meant, set classifier.lam = {self.lam:g}.", DefaultPointWarning)

    def _tell_of_attack(self) -> None:
        where = f"lam {self.lam:g}, the least robust of {self.model.lambdas}"
        self._tell("attacked", f"the classifier is attacked at {where}. Attack classifier.at(lam).")

    def _attacked(self) -> PinnedClassifier:
        """Return the view at the default point for what attacks ask of it."""
        self._tell_of_attack()
        return self.at()

    def _tell_of_training(self) -> None:
        where = f"lam {self.lam:g} alone, of {self.model.lambdas}"
        self._tell("trained", f"fit trains the network at {where}. OATTrainer trains them all.")

    def set_params(self, **kwargs: Any) -> None:
        """Set parameters; see ``PyTorchClassifier``. All of ``get_params()`` together do not count as naming lam.

        Raises:
            TypeError: If one is of another kind; after any error all are what they were.
            ValueError: If ``model`` is another than the one it has, or a value is refused.
        """
        is_taken_over = kwargs.keys() >= set(self.estimator_params) - {"model", "optimizer"}
        point = self.model.resolve(OperatingPoint(kwargs.get("lam", self.lam), kwargs.get("width", self.width)))
        dials = [name for name in ("lam", "width") if kwargs.pop(name, None) is not None]
        super().set_params(**kwargs)
        with self._lam_as_named() if is_taken_over and point.lam == self.lam else nullcontext():
            for name in dials:  # last, as ART may refuse others
                setattr(self, name, getattr(point, name))

    def at(self, lam: float | None = None, width: float | None = None) -> PinnedClassifier:
        """Return this classifier at one operating point, as an ordinary ART classifier that follows training.

        Args:
            lam: One number in ``[0, 1]``, or beyond up to ``model.farthest``; None for the default.
            width: One of the trained widths; None for the default.

        Raises:
            TypeError: If either is not one number.
            ValueError: If the point is not one of the model's.
        """
        return PinnedClassifier(
            self.model.pinned(self.model.point(lam, width)),
            copy.deepcopy(self._loss),  # ART changes its reduction for a while
            self.input_shape,
            self.nb_classes,
            channels_first=self.channels_first,
            clip_values=self.clip_values,
            preprocessing_defences=self.preprocessing_defences,
            postprocessing_defences=self.postprocessing_defences,
            preprocessing=self.preprocessing,
            device_type=self.device_type,
        )

    # ART runs these on the network in training form, and changes its mode and gradients. The pinned network gives the
    # same numbers and leaves both alone.

    def loss_gradient(self, x: Any, y: Any, training_mode: bool = False, **kwargs: Any) -> Any:
        """Return the gradient of the loss to ``x``, at the default point; see ``PyTorchClassifier``."""
        self._tell_of_attack()
        if training_mode:
            return super().loss_gradient(x, y, training_mode, **kwargs)
        return self.at().loss_gradient(x, y, **kwargs)

    def class_gradient(self, x: Any, label: Any = None, training_mode: bool = False, **kwargs: Any) -> Any:
        """Return the gradients of the scores to ``x``, at the default point; see ``PyTorchClassifier``."""
        self._tell_of_attack()
        if training_mode:
            return super().class_gradient(x, label, training_mode, **kwargs)
        return self.at().class_gradient(x, label, **kwargs)

    def compute_loss(self, x: Any, y: Any, reduction: str = "none", **kwargs: Any) -> Any:
        """Return the loss at the default point; see ``PyTorchClassifier``."""
        return self._attacked().compute_loss(x, y, reduction, **kwargs)

    def custom_loss_gradient(self, loss_fn: Any, x: Any, y: Any, layer_name: Any, training_mode: bool = False) -> Any:
        """Return the gradient of a loss between activations, at the default point; see ``PyTorchClassifier``."""
        return self._attacked().custom_loss_gradient(loss_fn, x, y, layer_name, training_mode)

    def get_activations(self, x: Any, layer: Any = None, batch_size: int = 128, framework: bool = False) -> Any:
        """Return the output of a layer at the default point; see ``PyTorchClassifier``."""
        return self.at().get_activations(x, layer, batch_size, framework)

    def _predict_framework(self, x: Tensor, y: Tensor | None = None) -> Any:
        return self._attacked()._predict_framework(x, y)

    def fit(self, x: Array, y: Array, batch_size: int = 128, nb_epochs: int = 10, *args: Any, **kwargs: Any) -> None:
        """Train at the default operating point, as ``PyTorchClassifier.fit`` does; ``OATTrainer`` trains all.

        Afterwards the network is in evaluation mode, so that ``model(x)`` answers as :meth:`predict` does.

        Args:
            x: Inputs, ``(N, *input_shape)``, finite.
            y: Class indices ``(N,)``, one-hot labels or class probabilities ``(N, K)``.
            batch_size: Samples per step, at least 1.
            nb_epochs: How often every sample is seen, at least 1.
            *args: ``training_mode``, ``drop_last``, ... as in ART.
            **kwargs: As in ART, which ignores unknown ones.

        Raises:
            TypeError: If an argument is of another kind.
            ValueError: If one is not as above; names every fault.
        """
        x, y = as_array(x, "x"), as_array(y, "y")
        counts = count_faults({"batch_size": batch_size, "nb_epochs": nb_epochs})
        refuse([*fit_faults(x, y, self), *counts])
        self._tell_of_training()
        try:
            super().fit(
                as_floats(x, self.clip_values), art_labels(y), plain(batch_size), plain(nb_epochs), *args, **kwargs
            )
        finally:
            self.model.eval()

    def fit_generator(self, generator: Any, nb_epochs: int = 20, *args: Any, **kwargs: Any) -> None:
        """Train on the batches of an ART ``DataGenerator`` at the default operating point, as :meth:`fit` does.

        Args:
            generator: Its batches are checked as they come.
            nb_epochs: How often it is gone through, at least 1.
            *args: As in ART.
            **kwargs: As in ART, which ignores unknown ones.

        Raises:
            TypeError: If an argument is of another kind.
            ValueError: If one, or a batch, is not as :meth:`fit` takes it.
        """
        if not isinstance(generator, DataGenerator):
            raise TypeError(f"generator must be a DataGenerator of ART, got {type(generator).__name__}.")
        refuse(count_faults({"nb_epochs": nb_epochs}))
        self._tell_of_training()
        if isinstance(generator, PyTorchDataGenerator):
            generator = copy.copy(generator)
            generator._iterator = CheckedLoader(generator._iterator, self)
        try:
            super().fit_generator(generator, plain(nb_epochs), *args, **kwargs)
        finally:
            self.model.eval()
