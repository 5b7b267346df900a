"""What translation and vision share: errors, files, checkpoints, settings, the environment."""
