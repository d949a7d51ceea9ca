"""PaddleOCR models in PyTorch."""
