"""Whom a broker on the authority's own machine runs as."""

import os
import pwd
from pathlib import Path

from gridhe.errors import StateError

__all__ = ["broker_owner"]

_BROKER_USER = "mosquitto"  # whom Mosquitto becomes when root starts it, and Debian's package makes


def broker_owner(home: Path) -> str | None:
    """The system user of the broker, where root makes the files: `mosquitto`, if it can come in.

    Its group may then pass through the home (0710), and see nothing in it: all else there is 0600 or 0700.
    In a folder that it cannot reach (beneath /root, say) a broker started by root has to stay root.
    Raises StateError.
    """
    if os.geteuid() != 0:
        return None
    try:
        group = pwd.getpwnam(_BROKER_USER).pw_gid
        if not all(folder.stat().st_mode & 0o001 for folder in home.resolve().parents):
            return "root"
        os.chown(home, 0, group)
        home.chmod(0o710)
    except KeyError:
        return "root"
    except OSError as error:
        raise StateError(f"cannot open {home} to user {_BROKER_USER!r}: {error.strerror or error}") from None
    return _BROKER_USER
