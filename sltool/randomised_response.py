"""Randomised response: labels with an epsilon of their own, and what follows from it.

The answer is the true class with probability `keep`, and otherwise any other class with
probability `flip` each; keep / flip = exp(epsilon). For two classes this is the method of Warner,
"Randomized Response", 1965; for more, the optimal one at low epsilon of Kairouz et al., "Extremal
Mechanisms for Local Differential Privacy", 2014 (arXiv 1407.1338).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RandomisedResponse:
    """The method for `classes` classes at `epsilon`."""

    classes: int
    epsilon: float

    @property
    def flip(self) -> float:
        """The probability of each wrong class."""
        # exp(-epsilon) does not overflow.
        odds = math.exp(-self.epsilon)
        return odds / (1 + (self.classes - 1) * odds)

    @property
    def keep(self) -> float:
        """The probability of the true class."""
        return 1 / (1 + (self.classes - 1) * math.exp(-self.epsilon))

    def true_counts(self, answers: NDArray[np.integer]) -> NDArray[np.float64]:
        """Unbiased estimates of each class's true count from its count of answers, (classes,)."""
        total = answers.sum()
        return np.asarray((answers - total * self.flip) / (self.keep - self.flip))

    def true_accuracy(self, accuracy: float) -> float:
        """An unbiased estimate of the accuracy against true labels from that against answers.

        A correct prediction equals the answer with probability `keep`, a wrong one with `flip`.
        """
        return (accuracy - self.flip) / (self.keep - self.flip)

    def true_auroc(self, auroc: float, positive: float) -> float:
        """An estimate of the area under the ROC curve against true labels; for two classes.

        The samples with either answer are a mixture of both classes (Menon et al., "Learning from
        Corrupted Binary Labels via Class-Probability Estimation", 2015).

        Args:
            auroc: against answers.
            positive: share of positive answers, between 0 and 1.
        """
        true = min(max((positive - self.flip) / (self.keep - self.flip), 0.0), 1.0)
        negative_in_positive = self.flip * (1 - true) / positive
        positive_in_negative = self.flip * true / (1 - positive)
        wrong = negative_in_positive + positive_in_negative
        return (auroc - wrong / 2) / (1 - wrong)
