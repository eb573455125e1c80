"""What the server network learns: its loss, and how its output becomes a prediction."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from sltool.errors import StudyFileError
from sltool.study import Labels

REGRESSION_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "huber": F.huber_loss,
}


class Task:
    """The loss and the predictions of one kind of labels."""

    def __init__(self, labels: Labels, loss: str) -> None:
        self.labels = labels
        if labels.kind == "regression":
            self._regression_loss = REGRESSION_LOSSES.get("mse" if loss == "auto" else loss)
        fits = (loss in REGRESSION_LOSSES) == (labels.kind == "regression")
        if loss != "auto" and not fits:
            raise StudyFileError(
                f"training.loss '{loss}' does not fit {labels.kind} labels",
                expected="mse, mae or huber for regression; cross-entropy for classes; or auto",
            )

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean loss of (n, outputs) against (n,) labels."""
        if self.labels.kind == "regression":
            assert self._regression_loss is not None
            target = (labels - self.labels.mean) / self.labels.sd
            return self._regression_loss(outputs.squeeze(1), target)
        if self.labels.kind == "binary":
            return F.binary_cross_entropy_with_logits(outputs.squeeze(1), labels.float())
        return F.cross_entropy(outputs, labels)

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """(n, outputs) -> (n,) values in the label's unit or probabilities, or (n, classes).

        In float64, so that the probabilities of all classes add up to one for every metric.
        """
        outputs = outputs.double()
        if self.labels.kind == "regression":
            return outputs.squeeze(1) * self.labels.sd + self.labels.mean
        if self.labels.kind == "binary":
            return outputs.squeeze(1).sigmoid()
        return outputs.softmax(dim=1)
