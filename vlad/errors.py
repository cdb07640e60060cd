"""The one exception tree of vlad: every expected failure is one of these, with a message that says what to do."""

from __future__ import annotations


class VladError(Exception):
    """Base of every error that vlad raises on purpose."""


class ConfigError(VladError):
    """A configuration that cannot be used: the message names the file, the key and the accepted values."""


class BundleError(VladError):
    """A checkpoint or policy bundle that cannot be used: the message names the file and what to supply."""


class DeviceError(VladError):
    """A servo bus, camera or accelerator that did not do what was asked of it."""


class Refused(VladError):
    """A request that is understood and not granted: the message gives the reason and the way out."""
