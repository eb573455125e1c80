"""The paper's cholesterol network: dense layers with leaky ReLU, and a single output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from sltool.errors import StudyFileError
from sltool.models.base import Activation, Count, Layers, Model, ServerSettings, activation_at
from sltool.models.learned_layer import learned_layer
from sltool.registry import models
from sltool.study.schema import Code, Section

Embedding = tuple[Count, Count]


@models.register("mlp")
class MLP(Model):
    """Dense layers, each with an activation, then a dense layer to the prediction."""

    class Settings(Section):
        widths: tuple[Count, ...] = Field(
            default=(16, 64, 64), min_length=1, description="Units of each hidden layer."
        )
        embeddings: dict[Annotated[int, Field(ge=0)], Embedding] = Field(
            default={},
            description="Column (counted from 0) -> [categories, size]: its codes 0 to "
            "categories - 1, with the agreed mean 0 and sd 1, become vectors of that size; "
            "any other code as a further vector for unknown categories.",
        )
        activation: Activation = Field(
            default="leaky-relu", description="relu, leaky-relu (the paper's), sigmoid or tanh."
        )
        server: ServerSettings = Field(
            default=ServerSettings(),
            description="Settings of the server network alone; may change at any time.",
        )

    settings: Settings

    def layers(self, shape: tuple[int, ...], outputs: int, cut: int) -> Layers:
        if len(shape) != 1:
            raise StudyFileError(f"mlp takes table rows, not samples of shape {shape}")
        embedded = self._embedded(shape[0])
        columns = embedded[0].width if embedded else shape[0]
        return self._dense(embedded, columns, outputs, cut)

    def learned_layer(self, shape: tuple[int, ...], code: Code) -> nn.Module:
        if len(shape) != 1 or not self.settings.embeddings:
            return learned_layer(shape, code)
        embedded = self._embedded(shape[0])[0]
        return nn.Sequential(embedded, *learned_layer((embedded.width,), code))

    def layers_after_code(self, shape: tuple[int, ...], outputs: int, cut: int) -> Layers:
        """Dense layers on all values of the code, also of an image."""
        flat = [nn.Flatten()] if len(shape) == 3 else []
        return self._dense(flat, math.prod(shape), outputs, cut)

    def _embedded(self, columns: int) -> list[_Embedded]:
        embeddings = self.settings.embeddings
        absent = [column for column in embeddings if column >= columns]
        if absent:
            raise StudyFileError(
                f"model.embeddings: there is no column {absent[0]}",
                expected=f"0 to {columns - 1}",
            )
        return [_Embedded(columns, embeddings)] if embeddings else []

    def _dense(
        self, before_first: Sequence[nn.Module], columns: int, outputs: int, cut: int
    ) -> Layers:
        """Dense layers of `widths`, the first behind other modules."""
        options = self.settings
        hidden: list[nn.Module] = []
        for index, (before, after) in enumerate(pairwise([columns, *options.widths])):
            activation = activation_at(index, cut, options.activation, options.server)
            # (N, before) -> (N, after)
            own = before_first if index == 0 else []
            hidden.append(nn.Sequential(*own, nn.Linear(before, after), activation()))
        return Layers(hidden, nn.Linear(options.widths[-1], outputs))


class _Embedded(nn.Module):
    """Columns (N, D) -> (N, width): numbers as they are, then each category's code as a vector."""

    def __init__(self, columns: int, embeddings: dict[int, Embedding]) -> None:
        super().__init__()
        self._numbers = [column for column in range(columns) if column not in embeddings]
        self.tables = nn.ModuleDict(
            {
                str(column): nn.Embedding(categories + 1, size)
                for column, (categories, size) in sorted(embeddings.items())
            }
        )
        self._categories = {str(column): count for column, (count, _) in embeddings.items()}
        self.width = len(self._numbers) + sum(size for _, size in embeddings.values())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x[:, self._numbers]]
        for column, table in self.tables.items():
            codes, unknown = x[:, int(column)].round().long(), self._categories[column]
            known = (codes >= 0) & (codes < unknown)
            parts.append(table(torch.where(known, codes, unknown)))
        return torch.cat(parts, dim=1)
