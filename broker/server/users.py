"""The system user of a broker on the authority's own machine."""

import os
import pwd
from pathlib import Path

from gridhe.errors import StateError

__all__ = ["broker_owner"]

_BROKER_USER = "mosquitto"  # Mosquitto switches to it when root starts it; Debian's package creates it


def broker_owner(home: Path) -> str | None:
    """The system user of the broker: `mosquitto` or `root` if we are root, else None.

    If `mosquitto` can reach `home`, root makes it 0710 with the group `mosquitto`. The group may pass
    through; all files in it are 0600 or 0700. If it cannot reach `home` (below /root, for example), a broker
    started by root must stay root. Raises StateError.
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
        raise StateError(
            f"cannot give user {_BROKER_USER!r} access to {home}: {error.strerror or error}"
        ) from None
    return _BROKER_USER
