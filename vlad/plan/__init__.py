"""`vlad plan`: whether a policy fits a board, before either is bought: docs/plan.md."""
