"""Engines for programs that have a place for one: OCRmyPDF and docling."""
