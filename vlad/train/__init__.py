"""Training with LeRobot's own policies, and what a robot's policy needs around it. Imports torch and lerobot."""
