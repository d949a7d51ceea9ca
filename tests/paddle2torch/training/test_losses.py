"""Losses against Paddle's values, and the places where PyTorch's own would differ."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from paddle2torch.training.losses import (
    balanced_loss,
    center_loss,
    db_loss,
    dice_loss,
    focal_loss,
    losses_of,
    multi_loss,
    random_centres,
)
from paddle2torch.training.rec_losses import ctc_loss, nrtr_loss, sar_loss
from paddle2torch.training.settings import DBLossSettings, RecLossSettings

# paddle.nn.CTCLoss(blank=0, reduction="none") of paddlepaddle 3.3.1 for the logits and labels below.
PADDLE_CTC = (3.4034178256988525, 4.9757843017578125, 3.14929461479187)
PADDLE_CTC_GRADIENT = (-0.014180243015289307, -0.012365022674202919, 0.011622138321399689, 0.014923120848834515)

NRTR_LOGITS = np.array(
    [
        *(0.125, -0.625, -1.25, -2.125, 0.5, 0.875),
        *(0.125, 2.25, 2.25, -1.5, 0.5, 0.625),
        *(-1.25, -1, -0.125, 1.25, -1.125, 1.125),
        *(0.75, -1.5, -0.625, 1.75, 1.75, 0.75),
        *(-2.5, 0.875, -1.375, 1.625, 2.125, -0.375),
        *(2.375, 1.375, -0.875, 2, -0.625, -2),
    ],
    dtype=np.float32,
).reshape(2, 3, 6)
# PaddleOCR's NRTRLoss under paddlepaddle 3.3.1, with and without smoothing.
PADDLE_NRTR, PADDLE_NRTR_PLAIN = 1.6974585056304932, 1.5989582538604736


@pytest.fixture
def logits() -> Tensor:
    rng = np.random.Generator(np.random.PCG64(3))
    return torch.from_numpy((rng.integers(-20, 21, (3, 5, 4)) / 8).astype(np.float32))


LABELS = torch.tensor([[1, 2, 0], [2, 2, 2], [3, 0, 0]])
LENGTHS = torch.tensor([2, 3, 1])


def test_ctc_is_paddles_mean_over_samples(logits: Tensor) -> None:
    logits.requires_grad_()
    loss = ctc_loss(logits, LABELS, LENGTHS)
    assert loss.item() == pytest.approx(np.mean(PADDLE_CTC), rel=1e-6)
    loss.backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[0, 0], torch.tensor(PADDLE_CTC_GRADIENT), rtol=1e-5, atol=1e-7)
    # PyTorch's "mean" divides by the lengths first.
    own = F.ctc_loss(logits.log_softmax(-1).transpose(0, 1), LABELS, torch.full((3,), 5), LENGTHS)
    assert own.item() != pytest.approx(loss.item(), rel=0.1)


# PaddleOCR's SARLoss under paddlepaddle 3.3.1 in float64, and some of its gradient.
SAR_LABELS = torch.tensor([[8, 1, 2, 8, 9, 9], [8, 3, 0, 5, 4, 8]])
PADDLE_SAR = 3.017790528417689
PADDLE_SAR_GRADIENT = (0.07606524092913926, 0.10081558962585445, 0.0, 0.0030840411240754474, 0.0)


def test_sar_is_paddles_mean_over_symbols() -> None:
    rng = np.random.Generator(np.random.PCG64(3))
    logits = torch.from_numpy(rng.normal(size=(2, 6, 9))).requires_grad_()
    loss = sar_loss(logits, SAR_LABELS)
    loss.backward()
    assert loss.item() == pytest.approx(PADDLE_SAR, rel=1e-6)
    assert logits.grad is not None
    assert logits.grad.flatten()[[0, 9, 40, 60, 101]].tolist() == pytest.approx(PADDLE_SAR_GRADIENT, rel=1e-5)
    batch = {"label_ctc": LABELS[:2], "length": LENGTHS[:2], "label_sar": SAR_LABELS}
    outputs = {"ctc": torch.zeros(2, 5, 4), "sar": logits.detach()}
    parts = multi_loss(outputs, batch, RecLossSettings(weight_2=0.5))
    assert list(parts) == ["loss", "CTCLoss", "SARLoss"]
    assert parts["SARLoss"].item() == pytest.approx(0.5 * PADDLE_SAR, rel=1e-6)


def test_a_label_that_does_not_fit_costs_nothing(logits: Tensor) -> None:
    """Three equal characters need five steps: with four, Paddle gives 0 and no gradient, PyTorch infinity."""
    short = logits[:1, :4].clone().requires_grad_()
    loss = ctc_loss(short, torch.tensor([[1, 1, 1]]), torch.tensor([3]))
    loss.backward()
    assert loss.item() == 0
    assert short.grad is not None
    assert not short.grad.any()


def test_focal_weighs_each_sample(logits: Tensor) -> None:
    expected = np.mean([loss * (1 - math.exp(-loss)) ** 2 for loss in PADDLE_CTC])
    assert ctc_loss(logits, LABELS, LENGTHS, focal=True).item() == pytest.approx(expected, rel=1e-6)


def test_nrtr_is_paddles() -> None:
    """The targets are the labels shifted by one; padding (the last position of the second) does not count."""
    labels = torch.tensor([[2, 4, 5, 3], [2, 5, 3, 0]])
    logits = torch.tensor(NRTR_LOGITS)
    assert nrtr_loss(logits, labels).item() == pytest.approx(PADDLE_NRTR, rel=1e-6)
    assert nrtr_loss(logits, labels, smoothing=False).item() == pytest.approx(PADDLE_NRTR_PLAIN, rel=1e-6)
    # PyTorch's smoothing gives the target a share of the smoothed tenth, too.
    own = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=0, label_smoothing=0.1)
    assert own.item() != pytest.approx(PADDLE_NRTR, rel=1e-4)


def test_longer_label_rows_change_nothing() -> None:
    labels = torch.tensor([[2, 4, 5, 3, 0, 0], [2, 5, 3, 0, 0, 0]])
    assert nrtr_loss(torch.tensor(NRTR_LOGITS), labels).item() == pytest.approx(PADDLE_NRTR, rel=1e-6)


def test_multi_loss_weighs_its_parts(logits: Tensor) -> None:
    outputs = {"ctc": logits[:2], "gtc": torch.tensor(NRTR_LOGITS)}
    batch = {
        "label_ctc": LABELS[:2],
        "length": LENGTHS[:2],
        "label_gtc": torch.tensor([[2, 4, 5, 3], [2, 5, 3, 0]]),
    }
    losses = multi_loss(outputs, batch, RecLossSettings(weight_1=0.5, weight_2=2.0))
    assert list(losses) == ["loss", "CTCLoss", "NRTRLoss"]
    assert losses["CTCLoss"].item() == pytest.approx(0.5 * np.mean(PADDLE_CTC[:2]), rel=1e-6)
    assert losses["NRTRLoss"].item() == pytest.approx(2 * PADDLE_NRTR, rel=1e-6)
    assert losses["loss"].item() == pytest.approx(losses["CTCLoss"].item() + losses["NRTRLoss"].item(), rel=1e-6)
    del outputs["gtc"]
    assert list(multi_loss(outputs, batch, RecLossSettings())) == ["loss", "CTCLoss"]


@pytest.fixture
def maps() -> dict[str, Tensor]:
    """Two 4x5 maps with a positive 2x2 square each, and a masked column."""
    rng = np.random.Generator(np.random.PCG64(5))
    made = {"maps": torch.from_numpy(rng.uniform(0.05, 0.95, (2, 3, 4, 5)).astype(np.float32))}
    made["shrink_map"] = torch.zeros(2, 4, 5)
    made["shrink_map"][:, 1:3, 1:3] = 1
    made["shrink_mask"] = torch.ones(2, 4, 5)
    made["shrink_mask"][:, :, 4] = 0
    made["threshold_mask"] = torch.zeros(2, 4, 5)
    made["threshold_mask"][:, :, :4] = 1
    made["threshold_map"] = torch.full((2, 4, 5), 0.5)
    return made


def test_db_loss_by_hand(maps: dict[str, Tensor]) -> None:
    shrink, threshold, binary = (part.double().numpy() for part in maps["maps"].unbind(1))
    target, mask = (maps[f"shrink_{kind}"].double().numpy() for kind in ("map", "mask"))

    def dice(prediction: np.ndarray) -> float:
        both = (prediction * mask).sum() + (target * mask).sum() + 1e-6
        return float(1 - 2 * (prediction * target * mask).sum() / both)

    # 8 positive pixels allow 24 negative ones, of which there are 24.
    expected = {
        "loss_shrink_maps": 5 * dice(shrink) * 32 / (32 + 1e-6),
        "loss_threshold_maps": 10 * np.abs(threshold - 0.5)[:, :, :4].sum() / (32 + 1e-6),
        "loss_binary_maps": dice(binary),
    }
    losses = db_loss(maps, maps, DBLossSettings())
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-5), name
    assert losses["loss"].item() == pytest.approx(sum(expected.values()), rel=1e-5)
    assert losses_of(maps, maps, DBLossSettings())["loss"].item() == losses["loss"].item()


def test_the_local_head_has_a_loss_of_its_own(maps: dict[str, Tensor]) -> None:
    """PFHeadLocal: the binary map once more, with weight 1."""
    plain = db_loss(maps, maps, DBLossSettings())
    with_cbn = db_loss({**maps, "cbn_maps": maps["maps"][:, 2:]}, maps, DBLossSettings())
    assert with_cbn["loss_cbn"].item() == pytest.approx(plain["loss_binary_maps"].item(), rel=1e-5)
    assert with_cbn["loss"].item() == pytest.approx(plain["loss"].item() + with_cbn["loss_cbn"].item(), rel=1e-6)


def test_no_positive_pixel_no_shrink_loss(maps: dict[str, Tensor]) -> None:
    maps["shrink_map"].zero_()
    assert db_loss(maps, maps, DBLossSettings())["loss_shrink_maps"].item() == 0
    for kind in ("DiceLoss", "BCELoss"):
        settings = DBLossSettings(main_loss_type=kind)  # type: ignore[arg-type]
        assert balanced_loss(maps["maps"][:, 0], maps["shrink_map"], maps["shrink_mask"], settings).item() == 0


def test_bce_takes_the_hardest_negative_pixels(maps: dict[str, Tensor]) -> None:
    prediction, target, mask = maps["maps"][:, 0], maps["shrink_map"], maps["shrink_mask"]
    each = F.binary_cross_entropy(prediction, target, reduction="none")
    negative = (each * (1 - target) * mask).flatten().sort(descending=True).values
    expected = ((each * target).sum() + negative[:12].sum()) / (8 + 12 + 1e-6)
    settings = DBLossSettings(main_loss_type="BCELoss", ohem_ratio=1.5)
    assert balanced_loss(prediction, target, mask, settings).item() == pytest.approx(expected.item(), rel=1e-6)


def test_dice_is_one_number_for_the_batch(maps: dict[str, Tensor]) -> None:
    whole = dice_loss(maps["maps"][:, 0], maps["shrink_map"], maps["shrink_mask"], 1e-6)
    parts = [dice_loss(maps["maps"][i, 0], maps["shrink_map"][i], maps["shrink_mask"][i], 1e-6) for i in range(2)]
    assert whole.item() != pytest.approx(np.mean([part.item() for part in parts]), rel=1e-4)
    unbalanced = DBLossSettings(balance_loss=False)
    assert balanced_loss(maps["maps"][:, 0], maps["shrink_map"], maps["shrink_mask"], unbalanced).item() == whole.item()


def test_half_precision_outputs_make_float32_losses(logits: Tensor, maps: dict[str, Tensor]) -> None:
    assert ctc_loss(logits.bfloat16(), LABELS, LENGTHS).dtype == torch.float32
    assert nrtr_loss(torch.tensor(NRTR_LOGITS).bfloat16(), torch.tensor([[2, 4, 5, 3]] * 2)).dtype == torch.float32
    assert db_loss({"maps": maps["maps"].bfloat16()}, maps, DBLossSettings())["loss"].dtype == torch.float32


def test_focal_loss_by_hand() -> None:
    """What is almost right hardly counts; a map of 0 or 1 is cut off at 1e-6 from them, which float32 rounds."""
    settings = DBLossSettings(main_loss_type="DiceFocalLoss")
    prediction = torch.tensor([[[0.9, 0.2, 0.0, 1.0, 0.3]]], dtype=torch.float64)
    target = torch.tensor([[[1.0, 0.0, 1.0, 0.0, 1.0]]], dtype=torch.float64)
    mask = torch.tensor([[[1.0, 1.0, 1.0, 1.0, 0.0]]], dtype=torch.float64)
    edge = 1 - float(np.float32(1 - 1e-6))
    by_hand = (
        -0.25 * 0.1**2.5 * math.log(0.9)
        - 0.75 * 0.2**2.5 * math.log(0.8)
        - 0.25 * (1 - 1e-6) ** 2.5 * math.log(1e-6)
        - 0.75 * (1 - edge) ** 2.5 * math.log(edge)
    )
    assert focal_loss(prediction, target, mask, settings).item() == pytest.approx(by_hand / (4 + 1e-6), rel=1e-6)


def test_auxiliary_branches_count_by_their_weights(maps: dict[str, Tensor]) -> None:
    settings = DBLossSettings(main_loss_type="DiceFocalLoss", ohem_ratio=0.1)
    outputs = {"maps": maps["maps"]}
    plain = db_loss(outputs, maps, settings)
    worse = 1 - maps["maps"]
    outputs |= {f"aux_maps_{level}": worse for level in ("p4", "p3", "p2")}
    found = db_loss(outputs, maps, settings)
    other = db_loss({"maps": worse}, maps, settings)["loss"].item()
    assert other != pytest.approx(plain["loss"].item())
    assert [found[f"loss_aux_maps_{level}"].item() for level in ("p4", "p3", "p2")] == pytest.approx([other] * 3)
    assert found["loss"].item() == pytest.approx(plain["loss"].item() + (0.2 + 0.3 + 0.4) * other)
    # Hard pixels are not looked for.
    assert db_loss(outputs, maps, DBLossSettings(main_loss_type="DiceFocalLoss"))["loss"] == found["loss"]


def test_the_center_loss_is_paddles() -> None:
    """PaddleOCR's CenterLoss under Paddle 3.3.1, its random centres read out; the first feature is its centre."""
    golden = np.load(Path(__file__).with_name("paddleocr_center_loss.npz"))
    features, logits, centres = (torch.from_numpy(golden[name]) for name in ("features", "logits", "centres"))
    features.requires_grad_()
    logits.requires_grad_()
    loss = center_loss(features, logits, centres)
    loss.backward()
    assert loss.dtype == torch.float64
    assert math.isclose(loss.item(), float(golden["loss"]), rel_tol=1e-12)
    assert features.grad is not None
    torch.testing.assert_close(features.grad, torch.from_numpy(golden["gradient"]), rtol=1e-6, atol=0)
    assert logits.grad is None


def test_the_center_loss_is_added_to_ctc() -> None:
    outputs = {"ctc": torch.randn(2, 5, 7), "features": torch.randn(2, 5, 4)}
    batch = {"label_ctc": torch.tensor([[1, 2], [3, 0]]), "length": torch.tensor([2, 1])}
    without = multi_loss(outputs, batch, RecLossSettings())
    assert list(without) == ["loss", "CTCLoss"]
    losses = multi_loss(outputs, batch, RecLossSettings(center_weight=0.05, center_seed=3))
    expected = 0.05 * center_loss(outputs["features"], outputs["ctc"], random_centres(7, 4, 3, torch.device("cpu")))
    assert list(losses) == ["loss", "CTCLoss", "CenterLoss"]
    assert torch.equal(losses["CenterLoss"], expected)
    assert math.isclose(float(losses["loss"]), float(without["loss"] + expected), rel_tol=1e-6)
    # The same centres in every step and after resuming; others for another seed.
    assert torch.equal(
        random_centres(7, 4, 3, torch.device("cpu")), random_centres.__wrapped__(7, 4, 3, torch.device("cpu"))
    )
    assert not torch.equal(random_centres(7, 4, 3, torch.device("cpu")), random_centres(7, 4, 4, torch.device("cpu")))
