"""Labels between PaddleOCR's files and those of label tools and data sets."""
