"""Networks of PaddleOCR's own training settings that no released model has: the Architecture section of each.

Those that would be large are narrower and shallower than their yml, and say so. `rec_svtrnet_pool` and `det_r18_db`
have options of the official classes that no yml uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RESHAPE = {"name": "SequenceEncoder", "encoder_type": "reshape"}
LSTM = {"name": "SequenceEncoder", "encoder_type": "rnn"}
WINDOWS = [[7, 11], [7, 11], [7, 11]]
SVTR_TINY = {
    "name": "SVTRNet",
    "img_size": [32, 100],
    "out_char_num": 25,
    "out_channels": 192,
    "patch_merging": "Conv",
    "embed_dim": [64, 128, 256],
    "depth": [3, 6, 3],
    "num_heads": [2, 4, 8],
    "mixer": ["Local"] * 6 + ["Global"] * 6,
    "local_mixer": WINDOWS,
    "last_stage": True,
    "prenorm": False,
}

SECTIONS: Mapping[str, Mapping[str, Any]] = {
    "rec_svtrnet": {
        "Transform": {
            "name": "STN_ON",
            "tps_inputsize": [32, 64],
            "tps_outputsize": [32, 100],
            "num_control_points": 20,
            "tps_margins": [0.05, 0.05],
            "stn_activation": "none",
        },
        "Backbone": SVTR_TINY,
        "Neck": RESHAPE,
        "Head": {"name": "CTCHead"},
    },
    # Of half the width of images and one block less in each stage.
    "rec_svtrnet_ch": {
        "Transform": None,
        "Backbone": {
            **SVTR_TINY,
            "img_size": [32, 160],
            "out_char_num": 20,
            "out_channels": 96,
            "depth": [2, 5, 2],
            "mixer": ["Local"] * 4 + ["Global"] * 5,
        },
        "Neck": RESHAPE,
        "Head": {"name": "CTCHead"},
    },
    # A quarter as wide, fewer blocks, for images of half the width.
    "ch_PP-OCRv4_rec_svtr_large": {
        "Transform": None,
        "Backbone": {
            "name": "SVTRNet",
            "img_size": [48, 160],
            "out_char_num": 40,
            "out_channels": 128,
            "patch_merging": "Conv",
            "embed_dim": [48, 64, 128],
            "depth": [2, 3, 3],
            "num_heads": [6, 8, 16],
            "mixer": ["Conv"] * 4 + ["Global"] * 4,
            "local_mixer": [[5, 5], [5, 5], [5, 5]],
            "last_stage": False,
            "prenorm": True,
        },
        "Head": {
            "name": "MultiHead",
            "use_pool": True,
            "use_pos": True,
            "head_list": [
                {
                    "CTCHead": {
                        "Neck": {
                            "name": "svtr",
                            "dims": 64,
                            "depth": 2,
                            "hidden_dims": 64,
                            "kernel_size": [1, 3],
                            "use_guide": True,
                        },
                        "Head": {"fc_decay": 0.00001},
                    }
                },
                {"NRTRHead": {"nrtr_dim": 64, "max_text_length": 40}},
            ],
        },
    },
    "rec_svtrnet_pool": {
        "Transform": None,
        "Backbone": {
            "name": "SVTRNet",
            "img_size": [64, 128],
            "out_char_num": 12,
            "out_channels": 48,
            "patch_merging": "Pool",
            "embed_dim": [32, 48, 64],
            "depth": [2, 2, 2],
            "num_heads": [2, 3, 4],
            "mixer": ["Local", "Local", "Conv", "Conv", "Local", "Global"],
            "local_mixer": [[4, 7], [3, 5], [1, 6]],
            "mlp_ratio": 2,
            "qkv_bias": False,
            "act": "nn.Swish",
            "last_stage": True,
            "sub_num": 3,
            "prenorm": True,
        },
        "Neck": RESHAPE,
        "Head": {"name": "CTCHead"},
    },
    "rec_mv3_tps_bilstm_ctc": {
        "Transform": {"name": "TPS", "num_fiducial": 20, "loc_lr": 0.1, "model_name": "small"},
        "Backbone": {"name": "MobileNetV3", "scale": 0.5, "model_name": "large"},
        "Neck": {**LSTM, "hidden_size": 96},
        "Head": {"name": "CTCHead", "fc_decay": 0.0004},
    },
    # With the shallower of the two backbones, and without the LSTM of its yml.
    "rec_r18_vd_tps_none_ctc": {
        "Transform": {"name": "TPS", "num_fiducial": 16, "loc_lr": 0.1, "model_name": "large"},
        "Backbone": {"name": "ResNet", "layers": 18},
        "Neck": RESHAPE,
        "Head": {"name": "CTCHead", "fc_decay": 0},
    },
    "rec_mv3_none_none_ctc": {
        "Transform": None,
        "Backbone": {"name": "MobileNetV3", "scale": 0.5, "model_name": "large"},
        "Neck": RESHAPE,
        "Head": {"name": "CTCHead", "fc_decay": 0.0004},
    },
    "rec_r34_vd_none_none_ctc": {
        "Backbone": {"name": "ResNet", "layers": 34},
        "Neck": RESHAPE,
        "Head": {"name": "CTCHead", "fc_decay": 0.0004},
    },
    "det_repsvtr_db": {
        "Transform": None,
        "Backbone": {"name": "RepSVTR_det"},
        "Neck": {"name": "RSEFPN", "out_channels": 96, "shortcut": True},
        "Head": {"name": "DBHead", "k": 50},
    },
    # With a neck of half the width.
    "det_r50_db_plus_plus": {
        "algorithm": "DB++",
        "Transform": None,
        "Backbone": {"name": "ResNet", "layers": 50, "dcn_stage": [False, True, True, True]},
        "Neck": {"name": "DBFPN", "out_channels": 128, "use_asf": True},
        "Head": {"name": "DBHead", "k": 50},
    },
    "det_r18_db": {
        "algorithm": "DB++",
        "Transform": None,
        "Backbone": {"name": "ResNet", "layers": 18},
        "Neck": {"name": "DBFPN", "out_channels": 64},
        "Head": {"name": "DBHead", "k": 50},
    },
    "ch_PP-OCRv3_rotnet": {
        "Transform": None,
        "Backbone": {
            "name": "MobileNetV1Enhance",
            "scale": 0.5,
            "last_conv_stride": [1, 2],
            "last_pool_type": "avg",
        },
        "Neck": None,
        "Head": {"name": "ClsHead", "class_dim": 4},
    },
}
# Networks whose images have one size, and are stretched to it or padded.
ONE_SIZE: Mapping[str, bool] = {
    "rec_svtrnet": False,
    "rec_svtrnet_ch": True,
    "ch_PP-OCRv4_rec_svtr_large": True,
    "rec_svtrnet_pool": True,
    "rec_mv3_tps_bilstm_ctc": True,
    "rec_r18_vd_tps_none_ctc": True,
}
