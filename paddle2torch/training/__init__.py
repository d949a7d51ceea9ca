"""Fine-tuning as PaddleOCR does it, and its metrics."""
