"""A small classifier as PP-LCNet is built, in Paddle: its export, and its gradients of one batch in training.

    python tests/program_training.py FOLDER

Run in a process of its own (it imports paddle). FOLDER gets `export/` and `training.npz`: `x`, `label`, `loss`, the
scores in evaluation, and `grad:NAME` for each parameter by the name that it has in the export.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 4


def network(paddle: Any) -> Any:
    """Convolution, depthwise blocks (the second one with squeeze and excitation), a linear layer."""
    nn = paddle.nn

    class Excite(nn.Layer):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2D(channels, channels // 4, 1), nn.Conv2D(channels // 4, channels, 1)

        def forward(self, x: Any) -> Any:
            mean = nn.functional.adaptive_avg_pool2d(x, 1)
            return x * nn.functional.hardsigmoid(self.up(nn.functional.relu(self.down(mean))))

    def block(inputs: int, outputs: int, stride: int, *more: Any) -> list[Any]:
        return [
            *(nn.Conv2D(inputs, inputs, 3, stride, 1, groups=inputs, bias_attr=False), nn.BatchNorm2D(inputs)),
            *(nn.Hardswish(), *more, nn.Conv2D(inputs, outputs, 1, bias_attr=False), nn.BatchNorm2D(outputs)),
            nn.Hardswish(),
        ]

    return nn.Sequential(
        *(nn.Conv2D(3, 8, 3, 2, 1, bias_attr=False), nn.BatchNorm2D(8), nn.Hardswish()),
        *block(8, 16, 2),
        *block(16, 32, 2, Excite(16)),
        *(nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(32, CLASSES)),
    )


def main(folder: Path) -> None:
    """Write the export and the values of one step."""
    import paddle

    paddle.seed(7)
    random = np.random.default_rng(7)
    x = random.uniform(-1, 1, (8, 3, 32, 32)).astype(np.float32)
    label = (np.arange(8) % CLASSES).astype(np.int64)
    model = network(paddle)
    for name, buffer in model.named_buffers():
        low = 0.5 if name.endswith("_variance") else -0.2
        buffer.set_value(random.uniform(low, low + 1.0 if low > 0 else 0.2, buffer.shape).astype(np.float32))
    model.eval()
    scores = model(paddle.to_tensor(x)).numpy()
    spec = [paddle.static.InputSpec([None, 3, None, None], "float32", "x")]
    paddle.jit.save(model, str(folder / "export" / "inference"), input_spec=spec)
    model.train()
    loss = paddle.nn.functional.cross_entropy(model(paddle.to_tensor(x)), paddle.to_tensor(label))
    loss.backward()
    # Running statistics are parameters in Paddle's eyes, without gradients.
    trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
    grads = {f"grad:{parameter.name}": parameter.grad.numpy() for parameter in trained}
    np.savez(folder / "training.npz", x=x, label=label, loss=loss.numpy(), scores=scores, **grads)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
