"""vlad: a real-time runtime for vision-language-action policies on a robot arm's own board."""

__version__ = "0.1.0"
