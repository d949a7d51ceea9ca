"""Exported programs of any network, read into a `Graph`."""
