"""Which networks of the family have a small golden, and how each is built: from its card, training heads narrowed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from paddle2torch.model_zoo.cards import load_card

CLASSES = 24
# Card, and the size of its images (N, H, W).
SIZES: Mapping[str, tuple[int, int, int]] = {
    "PP-OCRv3_server_det": (1, 64, 96),
    "ch_PP-OCRv2_rec": (2, 32, 75),
    "ch_PP-OCRv4_server_det": (1, 64, 96),
    "ch_PP-OCRv4_server_rec": (2, 48, 75),
    "ch_ppocr_mobile_v2.0_det": (1, 64, 96),
    "ch_ppocr_mobile_v2.0_rec": (2, 32, 75),
    "ch_ppocr_server_v2.0_det": (1, 64, 96),
    "ch_ppocr_server_v2.0_rec": (2, 32, 75),
    "en_PP-OCRv3_rec": (2, 48, 75),
    "ch_RepSVTR_rec": (2, 48, 75),
    "ch_SVTRv2_rec": (2, 48, 75),
    "ch_PP-OCRv3_det": (1, 64, 96),
    "PP-OCRv5_mobile_det": (1, 64, 96),
    "PP-OCRv5_mobile_rec": (2, 48, 75),
    "PP-OCRv5_server_det": (1, 64, 96),
    "PP-OCRv5_server_rec": (2, 48, 75),
    "PP-OCRv6_medium_det": (1, 64, 96),
    "PP-OCRv6_medium_rec": (2, 48, 75),
    "PP-OCRv6_small_det": (1, 64, 96),
    "PP-OCRv6_small_rec": (2, 48, 75),
    "PP-OCRv6_tiny_det": (1, 64, 96),
    "PP-OCRv6_tiny_rec": (2, 48, 75),
    "PP-LCNet_x0_25_textline_ori": (4, 80, 160),
    "PP-LCNet_x1_0_doc_ori": (4, 64, 96),
    "PP-LCNet_x1_0_textline_ori": (4, 80, 160),
}
# Networks whose official export is kept too, and whether re-parameterised. No export of them is in ../shared.
PROGRAMS: Mapping[str, tuple[bool, ...]] = {
    "PP-LCNet_x1_0_textline_ori": (False,),
    "PP-OCRv6_medium_det": (True,),
    "PP-OCRv6_medium_rec": (True,),
    "PP-OCRv6_small_det": (True,),
    "PP-OCRv6_small_rec": (True,),
    "PP-OCRv6_tiny_det": (True,),
    "PP-OCRv6_tiny_rec": (True,),
    "ch_RepSVTR_rec": (False, True),
    "ch_SVTRv2_rec": (False,),
}
# Of PaddleClas, whose network has no parts: what belongs to the head here.
PADDLECLAS_HEAD = ("avg_pool", "last_conv", "act", "dropout", "flatten", "fc")
# Heads that only training needs are narrower than official ones: they would be most of what must be computed.
NARROW = {"NRTRHead": {"nrtr_dim": 32, "num_decoder_layers": 1}, "SARHead": {"enc_dim": 32, "d_k": 24}}
# SAR: 23 characters, 23 unknown, 24 start and end, 25 padding.
LABEL_SAR = np.array([[24, 7, 0, 19, 24, 25, 25], [24, 3, 22, 5, 5, 11, 24]], np.int64)
VALID_RATIO = np.array([0.45, 1.0], np.float32)


def our_name(name: str, paddle: str) -> str:
    """The path here of a layer or tensor of Paddle's network `name`."""
    if load_card(name).task != "cls":
        return paddle
    return ("head." if paddle.split(".")[0] in PADDLECLAS_HEAD else "backbone.") + paddle


def architecture(name: str) -> dict[str, Any]:
    """The official settings of the network, but for its training heads."""
    card = load_card(name)
    assert card.architecture is not None
    settings = {"model_type": card.task, **copy.deepcopy(dict(card.architecture))}
    for entry in settings["Head"].get("head_list", ()):
        for head, options in entry.items():
            options.update(NARROW.get(head, {}))
    return settings
