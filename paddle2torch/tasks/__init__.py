"""One network and one image: what page reading, proofs and training share."""
