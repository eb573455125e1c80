"""The work of the six commands in one process, as a plain torch script.

    python -m tests.bench.bare_stages SOURCE

Decodes the slices, runs the first layer once over all of them, trains the rest in float32 for three
epochs, keeps the epoch of the lowest validation loss, and prints its test accuracy as JSON. No
sites, keys, files in between, pseudonyms, checks or resumption.
"""

from __future__ import annotations

import json
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

SIDE, FILTERS, EPOCHS, BATCH = 64, (16, 32, 64, 128, 256), 3, 64
CLASSES = ("non-COVID", "COVID")


def decode(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def block(channels: int, filters: int, norm: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, filters, 3, padding=1),
        *([nn.BatchNorm2d(filters)] if norm else []),
        nn.LeakyReLU(),
        nn.MaxPool2d(2),
    )


def main(source: Path) -> None:
    torch.manual_seed(0)
    paths = [(path, n) for n, name in enumerate(CLASSES) for path in (source / name).glob("*.png")]
    images = torch.from_numpy(np.stack([decode(path) for path, _ in paths]))[:, None]
    labels = torch.tensor([n for _, n in paths], dtype=torch.float32)

    first = block(1, FILTERS[0], norm=False).eval()
    with torch.no_grad():
        features = torch.cat([first(part.float() / 255) for part in torch.split(images, 256)])

    network = nn.Sequential(
        *(block(*pair) for pair in pairwise(FILTERS)),
        nn.Flatten(),
        nn.Linear(FILTERS[-1] * (SIDE >> len(FILTERS)) ** 2, 1),
    )
    order = torch.randperm(len(labels))
    tenth = len(labels) // 10
    test, validation, train = order[:tenth], order[tenth : 2 * tenth], order[2 * tenth :]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    steps = EPOCHS * -(-len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def outputs(rows: torch.Tensor) -> torch.Tensor:
        network.eval()
        with torch.no_grad():
            scores: torch.Tensor = network(features[rows]).squeeze(1)
            return scores

    best = float("inf")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.pt"
        for _ in range(EPOCHS):
            network.train()
            for rows in torch.split(train[torch.randperm(len(train))], BATCH):
                loss = binary_cross_entropy_with_logits(
                    network(features[rows]).squeeze(1), labels[rows]
                )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
            now = binary_cross_entropy_with_logits(outputs(validation), labels[validation]).item()
            if now < best:
                best = now
                torch.save(network.state_dict(), model)
        network.load_state_dict(torch.load(model))
    right = (outputs(test) >= 0) == (labels[test] == 1)
    weights = sum(value.numel() for value in network.parameters())
    print(json.dumps({"accuracy": right.float().mean().item(), "weights": weights}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
