"""Training data: label files and databases in PaddleOCR's formats to batches of tensors."""

from paddle2torch.training.data.drops import DataError, DropReport, Reason
from paddle2torch.training.data.encode import EncodedLabel, LabelEncoder
from paddle2torch.training.data.loaders import Loader, build_loader

__all__ = ["DataError", "DropReport", "EncodedLabel", "LabelEncoder", "Loader", "Reason", "build_loader"]
