"""Proof of equality: a converted model beside Paddle, layer by layer."""
