"""The training objective: the loss, and the predictions from the network's outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from sltool.errors import StudyFileError
from sltool.study.schema import Labels, Training

REGRESSION_LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "huber": F.huber_loss,
}


class Objective:
    """The loss and the predictions for one kind of labels.

    Raises:
        StudyFileError: a setting does not fit the labels.
    """

    def __init__(self, labels: Labels, settings: Training) -> None:
        self.labels = labels
        self._settings = settings
        self._class_weights: torch.Tensor | None = None
        regression = labels.kind == "regression"
        loss = settings.loss
        self._regression_loss = REGRESSION_LOSSES.get("mse" if loss == "auto" else loss)
        if loss != "auto" and (loss in REGRESSION_LOSSES) != regression:
            raise StudyFileError(
                f"training.loss '{loss}' does not fit {labels.kind} labels",
                expected="mse, mae or huber for regression; cross-entropy for classes; or auto",
            )
        if regression and (settings.class_weights != "none" or settings.label_smoothing):
            key = "class_weights" if settings.class_weights != "none" else "label_smoothing"
            raise StudyFileError(
                f"training.{key} does not fit regression labels", expected="classes, or no such key"
            )

    @property
    def class_weights(self) -> torch.Tensor | None:
        """(classes,) float32, the weight of a sample of each class; None: all equal."""
        return self._class_weights

    def balance(self, labels: torch.Tensor) -> None:
        """Set the class weights from these (N,) training labels, if the study asks for it.

        Class c with n(c) of N samples has the weight N / (classes * n(c)), as in King & Zeng,
        "Logistic Regression in Rare Events Data", 2001.
        """
        if self._settings.class_weights == "balanced":
            counts = torch.bincount(labels, minlength=len(self.labels.classes)).float()
            self._class_weights = len(labels) / (len(counts) * counts.clamp(min=1))

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean loss of (n, outputs) against (n,) labels."""
        if self._class_weights is None:
            return self._loss(outputs, labels, "mean")
        weights = self._class_weights.to(outputs.device)[labels]
        return (weights * self._loss(outputs, labels, "none")).mean()

    def _loss(self, outputs: torch.Tensor, labels: torch.Tensor, reduction: str) -> torch.Tensor:
        smoothing = self._settings.label_smoothing
        if self.labels.kind == "regression":
            assert self._regression_loss is not None
            target = (labels - self.labels.mean) / self.labels.sd
            return self._regression_loss(outputs.squeeze(1), target, reduction=reduction)
        if self.labels.kind == "binary":
            target = labels.float() * (1 - smoothing) + smoothing / 2
            return F.binary_cross_entropy_with_logits(
                outputs.squeeze(1), target, reduction=reduction
            )
        return F.cross_entropy(outputs, labels, reduction=reduction, label_smoothing=smoothing)

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """(n, outputs) -> (n,) values in the label's unit or probabilities, or (n, classes).

        In float64: some metrics require that the probabilities of all classes sum to 1 closely.
        """
        outputs = outputs.double()
        if self.labels.kind == "regression":
            return outputs.squeeze(1) * self.labels.sd + self.labels.mean
        if self.labels.kind == "binary":
            return outputs.squeeze(1).sigmoid()
        return outputs.softmax(dim=1)

    def correct(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The count of (n, outputs) that predict the correct class, a scalar."""
        predicted = self.predict(outputs)
        classes = predicted.argmax(1) if predicted.dim() == 2 else (predicted >= 0.5).long()
        return (classes == labels).sum()
