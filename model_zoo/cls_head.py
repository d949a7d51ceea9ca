"""Head of the text direction classifier.

Source: PaddleOCR `ppocr/modeling/heads/cls_head.py` (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from paddle2torch.model_zoo.initialisers import uniform_by_fan_in
from paddle2torch.model_zoo.registry import Part, Shapes, register


class ClsHead(nn.Module):
    """Mean over the image, then a linear layer to the classes (Paddle's option is called `class_dim`)."""

    def __init__(self, in_channels: int, *, classes: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, classes): logits in training, else probabilities."""
        logits = self.fc(self.pool(x).flatten(1))
        return logits if self.training else logits.softmax(-1)

    def init_weights(self) -> None:
        """The weights uniform by the width of the input."""
        uniform_by_fan_in(self.fc.weight, self.fc.in_features)


def _cls_head_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    return {"classes": shapes["head.fc.bias"][0]}


register(Part("head", "ClsHead", ClsHead, signatures=("head.fc.",), rank=3, read_options=_cls_head_options, task="cls"))
