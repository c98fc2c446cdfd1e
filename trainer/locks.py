"""Locks that show who is alive: a process that is killed lets go of them, whatever its pid says."""

from pathlib import Path

from filelock import FileLock, Timeout

LOOKED_AT = 1.0  # seconds after which a lock that cannot be had is held, and not only looked at
GLANCE = 0.01  # seconds between the two looks that it takes to call a lock held


def is_held(path: Path) -> bool:
    """Whether somebody holds this lock. To look is to hold it for less than a millisecond, so two may look at once,
    and whoever takes it to keep it waits for LOOKED_AT seconds."""
    if not path.exists():
        return False
    try:
        with FileLock(path).acquire(timeout=GLANCE, poll_interval=GLANCE):
            return False
    except Timeout:
        return True
    except OSError:
        return False
