"""Networks of PaddleOCR that have no class here: which one a checkpoint or a yml is of, to say what can be done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# Paddle's class of the head: what the network is called.
HEADS: Mapping[str, str] = {
    "ABINetHead": "ABINet",
    "AsterHead": "SEED",
    "AttentionHead": "a recogniser with an attention decoder (RARE)",
    "CANHead": "CAN",
    "CPPDHead": "CPPD",
    "CT_Head": "CT",
    "DRRGHead": "DRRG",
    "EASTHead": "EAST",
    "FCEHead": "FCE",
    "LaTeXOCRHead": "LaTeX-OCR",
    "PFHead": "a detector with PaddleOCR's PFHead",
    "PGHead": "PGNet",
    "PPFormulaNet_Head": "PP-FormulaNet",
    "PRENHead": "PREN",
    "PSEHead": "PSE",
    "ParseQHead": "ParseQ",
    "RFLHead": "RFL",
    "RobustScannerHead": "RobustScanner",
    "SARHead": "SAR",
    "SASTHead": "SAST",
    "SATRNHead": "SATRN",
    "SDMGRHead": "SDMGR",
    "SLAHead": "SLANet (tables)",
    "SPINAttentionHead": "SPIN",
    "SRNHead": "SRN",
    "TableAttentionHead": "TableRec-RARE (tables)",
    "TableMasterHead": "TableMaster (tables)",
    "Transformer": "NRTR",
    "UniMERNetHead": "UniMERNet",
    "VLHead": "VisionLAN",
}
# Prefixes of tensors that no network here has; the first that fits is right.
SIGNATURES: tuple[tuple[str, str], ...] = (
    ("head.geo_conv.", "EASTHead"),
    ("head.head1.border_conv.", "SASTHead"),
    ("head.out_conv_reg.", "FCEHead"),
    ("head.graph_train.", "DRRGHead"),
    ("neck.fpn.", "CT_Head"),
    ("head.bn1.", "PSEHead"),
    ("head.conv_f_score1.", "PGHead"),
    ("head.structure_attention_cell.", "SLAHead"),
    ("head.cls_layer.", "TableMasterHead"),
    ("backbone.attention_cell.", "SPINAttentionHead"),
    ("transform.spin_dim_reduce.", "SPINAttentionHead"),
    ("head.attention_cell.", "AttentionHead"),
    ("head.embedder.", "AsterHead"),
    ("head.pvam.", "SRNHead"),
    ("head.encoder.rnn_encoder.", "SARHead"),
    ("head.decoder.hybrid_decoder.", "RobustScannerHead"),
    ("head.decoder.trg_word_emb.", "SATRNHead"),
    ("head.tgt_word_prj.", "Transformer"),
    ("head.cls_align.", "ABINetHead"),
    ("head.MLM_VRM.", "VLHead"),
    ("head.cnt_head.", "RFLHead"),
    ("head.char_node_embed", "CPPDHead"),
    ("head.pos_queries", "ParseQHead"),
    ("head.counting_decoder1.", "CANHead"),
    ("head.gnn_layers.", "SDMGRHead"),
)
WHAT_TO_DO = (
    "which has no class here: a checkpoint of it cannot be converted. Its export can, as a program: an inference "
    "folder that PaddleOCR's tools/export_model.py makes of it (--weights FOLDER)"
)


def unnamed(keys: Iterable[str]) -> str | None:
    """What the network with tensors of these names is called; None where it is none of these."""
    keys = tuple(keys)
    return next((HEADS[head] for prefix, head in SIGNATURES if any(key.startswith(prefix) for key in keys)), None)
