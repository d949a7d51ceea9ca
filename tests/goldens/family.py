"""Which networks of the family have a small golden, and how each is built: from its card, training heads narrowed, or
from the settings in `ymls.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from goldens.ymls import ONE_SIZE, SECTIONS
from recipe import image, smooth_image

from paddle2torch.converters.architecture import from_paddleocr
from paddle2torch.converters.characters import Charset
from paddle2torch.converters.templates import Template, from_card
from paddle2torch.model_zoo.cards import load_card
from paddle2torch.model_zoo.config import ClsPostprocess, ClsPreprocess, RecPreprocess, Task

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
    "rec_svtrnet": (2, 64, 256),
    "rec_svtrnet_ch": (2, 32, 160),
    "ch_PP-OCRv4_rec_svtr_large": (2, 48, 160),
    "rec_svtrnet_pool": (2, 64, 128),
    "rec_mv3_tps_bilstm_ctc": (2, 32, 100),
    "rec_r18_vd_tps_none_ctc": (2, 32, 100),
    "rec_mv3_none_none_ctc": (2, 32, 75),
    "rec_r34_vd_none_none_ctc": (2, 32, 75),
    "det_repsvtr_db": (1, 64, 96),
    "det_r50_db_plus_plus": (1, 64, 96),
    "det_r18_db": (1, 64, 96),
    "ch_PP-OCRv3_rotnet": (4, 48, 160),
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
    **dict.fromkeys(SECTIONS, (False,)),
    "det_repsvtr_db": (False, True),
}
# Of PaddleClas, whose network has no parts: what belongs to the head here.
PADDLECLAS_HEAD = ("avg_pool", "last_conv", "act", "dropout", "flatten", "fc")
# Heads that only training needs are narrower than official ones: they would be most of what must be computed.
NARROW = {"NRTRHead": {"nrtr_dim": 32, "num_decoder_layers": 1}, "SARHead": {"enc_dim": 32, "d_k": 24}}
# SAR: 23 characters, 23 unknown, 24 start and end, 25 padding.
LABEL_SAR = np.array([[24, 7, 0, 19, 24, 25, 25], [24, 3, 22, 5, 5, 11, 24]], np.int64)
VALID_RATIO = np.array([0.45, 1.0], np.float32)


def task_of(name: str) -> Task:
    """What the network is for."""
    if name not in SECTIONS:
        return load_card(name).task
    return "cls" if name.endswith("rotnet") else "det" if name.startswith("det") else "rec"


def template(name: str) -> Template:
    """What is known of the network, with as many characters as it has classes."""
    task = task_of(name)
    known = from_card(load_card(name)) if name not in SECTIONS else Template(name, "a yml", task)
    known = replace(known, architecture=from_paddleocr(architecture(name), task, name))
    _, height, width = SIZES[name]
    if name in ONE_SIZE:
        known = replace(known, preprocess=RecPreprocess((3, height, width), max_width=width, keep_ratio=ONE_SIZE[name]))
    elif name in SECTIONS and task == "rec":
        known = replace(known, preprocess=RecPreprocess((3, height, 320)))
    elif name in SECTIONS and task == "cls":
        preprocess, labels = ClsPreprocess((3, height, width)), ClsPostprocess(("0", "90", "180", "270"))
        known = replace(known, preprocess=preprocess, postprocess=labels)
    characters = Charset(tuple(map(chr, range(0x4E00, 0x4E00 + CLASSES - 1))), False, "a test")
    return replace(known, charset=characters) if task == "rec" else known


def picture(name: str, purpose: str, shape: tuple[int, int, int, int]) -> np.ndarray:
    """float32 (N, 3, H, W): images for the network."""
    transform = SECTIONS[name].get("Transform") if name in SECTIONS else None
    return (image if transform is None else smooth_image)(purpose, shape)


def is_paddleclas(name: str) -> bool:
    """Whether the network is PaddleClas's, whose tensors tell no backbone from a head."""
    return name.startswith("PP-LCNet")


def our_name(name: str, paddle: str) -> str:
    """The path here of a layer or tensor of Paddle's network `name`."""
    if not is_paddleclas(name):
        return paddle
    return ("head." if paddle.split(".")[0] in PADDLECLAS_HEAD else "backbone.") + paddle


def architecture(name: str) -> dict[str, Any]:
    """The official settings of the network, but for its training heads."""
    section = SECTIONS[name] if name in SECTIONS else load_card(name).architecture
    assert section is not None
    settings = {"model_type": task_of(name), **copy.deepcopy(dict(section))}
    for entry in settings["Head"].get("head_list", ()):
        for head, options in entry.items():
            options.update(NARROW.get(head, {}))
    return settings
