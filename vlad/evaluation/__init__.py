"""`vlad eval`: how often a policy does the task on the simulated table, and what the runtime had to do for it."""
