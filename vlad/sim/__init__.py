"""The simulated robot: an SO-101-like arm in MuJoCo behind the wire and cameras of a real one."""
