"""Models by name: where they come from, where they are kept, what is known about them."""
