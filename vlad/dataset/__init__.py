"""Datasets of robot episodes: reading them and checking them before anything is trained on them."""
