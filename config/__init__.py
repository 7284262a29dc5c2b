"""Settings: every number that a user may change, typed, with its unit and its reason.

`load_settings` reads them with the precedence defaults < file < environment < flags; the shipped
`gridhe.yaml` beside this file repeats every default with a comment.
"""

from gridhe.config.load import find_settings_file, load_settings
from gridhe.config.settings import Settings

__all__ = ["Settings", "find_settings_file", "load_settings"]
