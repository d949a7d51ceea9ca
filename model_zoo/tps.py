"""Spatial transformers: a line is straightened by a thin plate spline before a backbone reads it.

`TPS` of the STAR-Net recognisers and `STN_ON` of SVTR. Source: PaddleOCR `ppocr/modeling/transforms/tps.py`, `stn.py`,
`tps_spatial_transformer.py` (Apache-2.0); RARE, arXiv:1603.03915; ASTER, doi:10.1109/TPAMI.2018.2848939.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paddle2torch.model_zoo.errors import ConfigError
from paddle2torch.model_zoo.initialisers import uniform_by_fan_in
from paddle2torch.model_zoo.layers import BatchNorm1d, BatchNorm2d, BatchNormReLU, Constant, ConvBN
from paddle2torch.model_zoo.registry import Part, Shapes, register

Floats = npt.NDArray[np.floating[Any]]
Size = tuple[int, int]
"""(height, width)."""

# Channels of the four convolutions, and width of the linear layer behind them.
LOCALISATIONS: Mapping[str, tuple[tuple[int, ...], int]] = {
    "large": ((64, 128, 256, 512), 256),
    "small": ((16, 32, 64, 128), 64),
}
STN_CHANNELS = (32, 64, 128, 256, 256, 256)
STN_FEATURES = 512


def _two_rows(x: Floats, top: Floats | float, bottom: Floats | float) -> Floats:
    """Points along an upper and a lower edge, float64 (2 * len(x), 2) of (x, y)."""
    rows = [np.stack([x, np.broadcast_to(y, x.shape)], axis=1) for y in (top, bottom)]
    return np.concatenate(rows)


def _constants(make: Callable[..., tuple[Floats, Floats]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """What `make` computes as float32 tensors on the CPU, once for each size: networks are also built without values,
    and take the tensors when they run."""

    @functools.lru_cache(maxsize=8)
    def constants(*arguments: Any) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False):
            inverse, basis = make(*arguments)
            return torch.from_numpy(inverse.astype(np.float32)), torch.from_numpy(basis.astype(np.float32))

    return constants


@_constants
def _plate_of_tps(points: int, size: Size) -> tuple[Floats, Floats]:
    """Inverse of the spline's matrix (points + 3, points + 3), and its basis at each pixel (H * W, points + 3)."""
    half = points // 2
    control = _two_rows(np.linspace(-1.0, 1.0, half), -1.0, 1.0)
    distance = np.linalg.norm(control[None] - control[:, None], axis=2) + np.eye(points)
    matrix = np.zeros((points + 3, points + 3))
    matrix[:points, 0], matrix[:points, 1:3], matrix[:points, 3:] = 1, control, distance**2 * np.log(distance)
    matrix[points : points + 2, 3:], matrix[points + 2, 3:] = control.T, 1
    height, width = size
    y, x = ((np.arange(-n, n, 2) + 1.0) / n for n in (height, width))
    pixels = np.stack(np.meshgrid(x, y), axis=2).reshape(-1, 2)
    radius = np.linalg.norm(pixels[:, None] - control[None], axis=2)
    basis = np.concatenate([np.ones((len(pixels), 1)), pixels, radius**2 * np.log(radius + 1e-6)], axis=1)
    return np.linalg.inv(matrix), basis


def _radial(points: Floats, control: Floats) -> Floats:
    distance = ((points[:, None] - control[None]) ** 2).sum(axis=2)
    logarithm: Floats = np.log(np.where(distance > 0, distance, 1))
    return 0.5 * distance * logarithm


@_constants
def _plate_of_stn(points: int, margins: tuple[float, float], size: Size) -> tuple[Floats, Floats]:
    """The same, of points between 0 and 1 and in the order in which that class has them."""
    margin_x, margin_y = margins
    control = _two_rows(np.linspace(margin_x, 1 - margin_x, points // 2), margin_y, 1 - margin_y)
    matrix = np.zeros((points + 3, points + 3), np.float32)
    matrix[:points, :points] = _radial(control, control)
    matrix[:points, -3] = matrix[-3, :points] = 1
    matrix[:points, -2:], matrix[-2:, :points] = control, control.T
    height, width = size
    y, x = (np.arange(n, dtype=np.float32) / max(n - 1, 1) for n in (height, width))
    pixels = np.stack(np.meshgrid(x, y), axis=2).reshape(-1, 2)
    basis = np.concatenate([_radial(pixels, control.astype(np.float32)), np.ones((len(pixels), 1)), pixels], axis=1)
    return np.linalg.inv(matrix.astype(np.float64)), basis


class ConvBNLayer(ConvBN):
    """A 3x3 convolution, then batch normalisation with its ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3)
        self.bn = BatchNormReLU(out_channels)


class LocalizationNetwork(nn.Module):
    """Where the points along a text's upper and lower edge lie in an image."""

    def __init__(self, in_channels: int, *, points: int, model_name: str, rate: float) -> None:
        super().__init__()
        self.rate = rate
        channels, width = LOCALISATIONS[model_name]
        self.points = points
        for number, out_channels in enumerate(channels):
            self.add_module(f"loc_conv{number}", ConvBNLayer(in_channels, out_channels))
            in_channels = out_channels
        self.convolutions = len(channels)
        self.fc1 = nn.Linear(in_channels, width)
        self.fc2 = nn.Linear(width, 2 * points)

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_channels, H, W); returns (N, points, 2) of (x, y), from -1 to 1."""
        for number in range(self.convolutions):
            x = self.get_submodule(f"loc_conv{number}")(x)
            x = F.max_pool2d(x, 2) if number + 1 < self.convolutions else F.adaptive_avg_pool2d(x, 1)
        return self.fc2(F.relu(self.fc1(x.flatten(1)))).view(-1, self.points, 2)

    def init_weights(self) -> None:
        """The second linear layer gives the same points for all images: edges that run towards each other."""
        half = self.points // 2
        x = np.linspace(-1.0, 1.0, half)
        edges = _two_rows(x, np.linspace(0.0, -1.0, half), np.linspace(1.0, 0.0, half))
        uniform_by_fan_in(self.fc1.weight, self.fc1.in_features)
        nn.init.zeros_(self.fc2.weight)
        with torch.no_grad():
            self.fc2.bias.copy_(torch.from_numpy(edges.reshape(-1)))

    def rate_factors(self) -> Iterator[tuple[nn.Parameter, float]]:
        """The linear layers learn by `rate`, but for the first one's bias."""
        for parameter in (self.fc1.weight, self.fc2.weight, self.fc2.bias):
            assert isinstance(parameter, nn.Parameter)
            yield parameter, self.rate


class GridGenerator(nn.Module):
    """From points to where each pixel of the straightened image lies in the given one."""

    def __init__(self, points: int) -> None:
        super().__init__()
        self.points = points
        self.fc = nn.Linear(2 * points, 6)
        # In Paddle the rate of this layer is 0, and no gradient reaches it.
        self.fc.requires_grad_(False)

    def forward(self, points: Tensor, size: Size) -> Tensor:
        """points: float (N, points, 2); returns (N, H, W, 2) of (x, y) for a `size` of (H, W)."""
        inverse, basis = (constant.to(points.device, points.dtype) for constant in _plate_of_tps(self.points, size))
        affine = self.fc(points.detach().flatten(1)).view(-1, 3, 2)
        spline = inverse @ torch.cat([points, affine], dim=1)
        return (basis @ spline).view(-1, *size, 2)

    def init_weights(self) -> None:
        """Zeros."""
        nn.init.zeros_(self.fc.weight)


class TPS(nn.Module):
    """The transformer of STAR-Net: the straightened image has the size of the given one.

    Raises `ConfigError` for options that describe no network.

    Args:
        in_channels: channels of the image.
        num_fiducial: points along the two edges of the text, an even number.
        loc_lr: factor on the learning rate of what finds them.
        model_name: "small" or "large".
    """

    image_size: Size | None = None
    """Of what it makes; None: as the given image."""

    def __init__(
        self, *, in_channels: int = 3, num_fiducial: int = 20, loc_lr: float = 0.1, model_name: str = "small"
    ) -> None:
        super().__init__()
        if model_name not in LOCALISATIONS:
            raise ConfigError(f"TPS: model_name is {model_name!r}, not {' or '.join(LOCALISATIONS)}")
        _check_points(num_fiducial)
        self.loc_net = LocalizationNetwork(in_channels, points=num_fiducial, model_name=model_name, rate=loc_lr)
        self.grid_generator = GridGenerator(num_fiducial)

    def forward(self, image: Tensor) -> Tensor:
        """image: float (N, in_channels, H, W); returns the same shape."""
        grid = self.grid_generator(self.loc_net(image), (image.shape[2], image.shape[3]))
        return F.grid_sample(image, grid, align_corners=True)


class ScaledLinear(nn.Linear):
    """A linear layer on a tenth of its input."""

    @property
    def factor(self) -> float:
        """By what values are multiplied at inference, outside a layer."""
        return 0.1

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, in_features); returns (N, out_features)."""
        return super().forward(x * self.factor)


class STN(nn.Module):
    """Where the points along a text's edges lie in an image of `tps_inputsize`, from 0 to 1."""

    def __init__(self, in_channels: int, *, points: int, cells: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.points = points
        layers: list[nn.Module] = []
        for channels in STN_CHANNELS:
            if layers:
                layers.append(nn.MaxPool2d(2))
            layers.append(
                nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1), BatchNorm2d(channels), nn.ReLU())
            )
            in_channels = channels
        self.stn_convnet = nn.Sequential(*layers)
        self.stn_fc1 = nn.Sequential(nn.Linear(cells * in_channels, STN_FEATURES), BatchNorm1d(STN_FEATURES), nn.ReLU())
        self.stn_fc2 = ScaledLinear(STN_FEATURES, 2 * points)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: float (N, in_channels, H, W); returns the features (N, 512) and the points (N, points, 2) of (x, y)."""
        features = self.stn_fc1(self.stn_convnet(x).flatten(1))
        points = self.stn_fc2(features)
        if self.activation == "sigmoid":
            points = points.sigmoid()
        return features, points.view(-1, self.points, 2)

    def init_weights(self) -> None:
        """Convolutions normal by the size of what they give, the points a frame near the image's edges."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=(2 / (9 * module.out_channels)) ** 0.5)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.001)
        nn.init.zeros_(self.stn_fc2.weight)
        frame = _two_rows(np.linspace(0.01, 0.99, self.points // 2), 0.01, 0.99).astype(np.float32)
        if self.activation == "sigmoid":
            frame = -np.log(1 / frame - 1)
        with torch.no_grad():
            self.stn_fc2.bias.copy_(torch.from_numpy(frame.reshape(-1)))


class Product(Constant):
    """One of the two matrices of `_plate_of_stn`, times what it is given."""

    def __init__(self, plate: Callable[[], tuple[Tensor, Tensor]], which: int) -> None:
        super().__init__()
        self.plate = plate
        self.which = which

    def forward(self, x: Tensor) -> Tensor:
        """x: float (N, columns, 2); returns (N, rows, 2)."""
        return self.values().to(x.device, x.dtype) @ x

    def values(self) -> Tensor:
        """float32 (rows, columns)."""
        return self.plate()[self.which]


class ZeroRows(Constant):
    """Three zeros behind the points: a spline bends no further outside of them."""

    def forward(self, *, like: Tensor) -> Tensor:
        """Zeros (N, 3, 2) for points (N, points, 2)."""
        return like.new_zeros(like.shape[0], 3, 2)

    def values(self) -> Tensor:
        """float32 (3, 2)."""
        return torch.zeros(3, 2, device="cpu")


class TPSSpatialTransformer(nn.Module):
    """The image at the places of a spline through the given points, in another size."""

    def __init__(self, *, points: int, margins: tuple[float, float], size: Size) -> None:
        super().__init__()
        self.size = size
        plate = functools.partial(_plate_of_stn, points, margins, size)
        self.padding_matrix = ZeroRows()
        self.inverse_kernel, self.target_coordinate_repr = Product(plate, 0), Product(plate, 1)

    def forward(self, image: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """image: float (N, C, H, W), points: (N, points, 2); returns (N, C, *size), and the places (N, cells, 2)."""
        padded = torch.cat([points, self.padding_matrix(like=points)], dim=1)
        places = self.target_coordinate_repr(self.inverse_kernel(padded))
        grid = 2.0 * places.view(-1, *self.size, 2).clamp(0, 1) - 1.0
        return F.grid_sample(image, grid, align_corners=True), places


class STNOn(nn.Module):
    """The transformer of SVTR: looks at the image in one size, gives it in another.

    Raises `ConfigError` for options that describe no network.

    Args:
        in_channels: channels of the image.
        tps_inputsize: (height, width) of what the points are found in.
        tps_outputsize: (height, width) of the straightened image.
        num_control_points: points along the two edges of the text, an even number.
        tps_margins: (x, y) of the points in the straightened image, as shares of it.
        stn_activation: "none", or "sigmoid" for points that cannot leave the image.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        tps_inputsize: Sequence[int] = (32, 64),
        tps_outputsize: Sequence[int] = (32, 100),
        num_control_points: int = 20,
        tps_margins: Sequence[float] = (0.05, 0.05),
        stn_activation: str = "none",
    ) -> None:
        super().__init__()
        if stn_activation not in ("none", "sigmoid"):
            raise ConfigError(f"STN_ON: stn_activation is {stn_activation!r}, not none or sigmoid")
        _check_points(num_control_points)
        height, width = tps_inputsize
        rows, columns = tps_outputsize
        margin_x, margin_y = tps_margins
        if not (0 <= margin_x < 0.5 and 0 <= margin_y < 0.5):
            raise ConfigError(f"STN_ON: tps_margins are {list(tps_margins)}, each is at least 0 and below 0.5")
        self.input_size = (height, width)
        self.image_size: Size = (rows, columns)
        self.tps = TPSSpatialTransformer(
            points=num_control_points, margins=(float(margin_x), float(margin_y)), size=self.image_size
        )
        cells = (height // 32) * (width // 32)
        if cells < 1:
            raise ConfigError(f"STN_ON: tps_inputsize is {list(tps_inputsize)}, at least [32, 32] is taken")
        self.stn_head = STN(in_channels, points=num_control_points, cells=cells, activation=stn_activation)

    def forward(self, image: Tensor) -> Tensor:
        """image: float (N, in_channels, H, W); returns (N, in_channels, *tps_outputsize)."""
        small = F.interpolate(image, self.input_size, mode="bilinear", align_corners=True)
        _, points = self.stn_head(small)
        return self.tps(image, points)[0]


def _check_points(points: int) -> None:
    if points < 4 or points % 2:
        raise ConfigError(f"a spline has an even number of points, at least 4, not {points}")


def _tps_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    width = shapes["transform.loc_net.fc1.bias"][0]
    name = next((name for name, (_, wide) in LOCALISATIONS.items() if wide == width), None)
    if name is None:
        raise ValueError(f"its localisation network is {width} wide, which no TPS is")
    rate = {"loc_lr": hint["loc_lr"]} if "loc_lr" in hint else {}
    return {**rate, "num_fiducial": shapes["transform.loc_net.fc2.bias"][0] // 2, "model_name": name}


def _stn_options(shapes: Shapes, hint: Mapping[str, Any]) -> dict[str, Any]:
    # Sizes and margins leave no trace in the tensors.
    return {**hint, "num_control_points": shapes["transform.stn_head.stn_fc2.bias"][0] // 2}


register(
    Part(
        "transform",
        "TPS",
        TPS,
        signatures=("transform.loc_net.",),
        read_options=_tps_options,
        one_size=True,
    )
)
register(
    Part(
        "transform",
        "STN_ON",
        STNOn,
        signatures=("transform.stn_head.",),
        read_options=_stn_options,
        one_size=True,
    )
)
