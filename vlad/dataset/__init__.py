"""LeRobot datasets v3.0, without torch: writing them, reading them, checking them before training."""
