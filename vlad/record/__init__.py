"""`vlad record`: episodes from a real arm or from a simulation, as a LeRobot dataset."""
