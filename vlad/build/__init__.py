"""`vlad build`: from a LeRobot SmolVLA checkpoint to a policy bundle, without torch and without
tracing.
"""
