"""The training objective: the loss, and the predictions from the network's outputs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from sltool.errors import StudyFileError
from sltool.randomised_response import RandomisedResponse
from sltool.study.schema import Labels, Training

REGRESSION_LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "huber": F.huber_loss,
}


class Objective:
    """The loss and the predictions for one kind of labels.

    If the labels are randomised responses, the network predicts the true classes, and the loss is
    that of the responses which follow from its prediction: the forward correction of Patrini et
    al., "Making Deep Neural Networks Robust to Label Noise", 2017 (arXiv 1609.03683), whose minimum
    is the same as without noise.

    Args:
        label_epsilon: of the responses; None: the labels are true.

    Raises:
        StudyFileError: a setting does not fit the labels.
    """

    def __init__(
        self, labels: Labels, settings: Training, label_epsilon: float | None = None
    ) -> None:
        self.labels = labels
        self._response = (
            None
            if label_epsilon is None
            else RandomisedResponse(len(labels.classes), label_epsilon)
        )
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
        "Logistic Regression in Rare Events Data", 2001. The true counts behind randomised responses
        are estimated.
        """
        if self._settings.class_weights == "balanced":
            counts = torch.bincount(labels, minlength=len(self.labels.classes)).float()
            if self._response is not None:
                estimated = self._response.true_counts(counts.long().cpu().numpy())
                counts = torch.from_numpy(estimated).to(counts)
            self._class_weights = len(labels) / (len(counts) * counts.clamp(min=1))

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean loss of (n, outputs) against (n,) labels."""
        if self._response is not None:
            return self._response_loss(outputs, labels, self._response)
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

    def _response_loss(
        self, outputs: torch.Tensor, labels: torch.Tensor, response: RandomisedResponse
    ) -> torch.Tensor:
        """The mean cross-entropy of (n,) responses.

        Class weights w change what is predicted, p, to w p / sum(w p) in both this loss and a
        weighted one. A weighted loss of responses would not: here the weights are divided out
        before the noise is applied (Menon et al., "Long-tail learning via logit adjustment", 2021).
        """
        if self.labels.kind == "binary":
            outputs = torch.cat([torch.zeros_like(outputs), outputs], dim=1)
        if self._class_weights is not None:
            outputs = outputs - self._class_weights.to(outputs).log()
        log_true = outputs.log_softmax(dim=1)
        # The log of (flip + (keep - flip) p) / keep, which is finite for every p.
        log_kept = log_true + math.log(-math.expm1(-response.epsilon))
        log_flip = log_true.new_tensor(-response.epsilon)
        log_response = torch.logaddexp(log_kept, log_flip) + math.log(response.keep)
        smoothing = self._settings.label_smoothing
        hit = log_response.gather(1, labels[:, None]).squeeze(1)
        spread = log_response.mean(dim=1)
        return -((1 - smoothing) * hit + smoothing * spread).mean()

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
