"""How the tea bag policy that ships with vlad was made: episodes, two stages of training, roll-ins, export.

`make teabag-policy` runs all of it; docs/teabag-policy.md says what it does and why.
"""
