"""Training runs: supervised, DINO, linear probes."""
