"""Networks whose modules carry Paddle's own parameter names, and one card per released model."""
