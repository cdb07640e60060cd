"""`vlad doctor`: what of this machine a robot arm depends on, each with a verdict and a remedy."""
