# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong, one exception a code.

The codes are what users match on (``error.code`` in results); the message says what happened and what to do next.
"""

from __future__ import annotations


class QemuError(Exception):
    """Base of all errors that are meant for people. ``code`` names the situation, ``str()`` explains it.

    ``pid`` is the process that listens on the guest's socket, where that is known and the guest is not.
    """

    code = "failed"
    pid: int | None = None


class OptionError(QemuError):
    """An option cannot be understood. Raised before anything is touched."""

    code = "invalid_option"


class InfeasibleError(QemuError):
    """The host's guests cannot share the budget by these rules."""

    code = "infeasible"


class OtherRunError(QemuError):
    """Another run works on the same guests."""

    code = "other_run"


class InterruptedRunError(QemuError):
    """The run was told to end by a signal."""

    code = "interrupted"


# --- who is on the other end of the socket -----------------------------------------------------------------------------


class SocketAuthError(QemuError):
    """The socket gave no verified connection. No byte was written to it."""


class UntrustedPeerError(SocketAuthError):
    """The process behind the socket runs as somebody else.

    ``expected_uid`` and ``actual_uid`` are numeric user ids; ``actual_uid`` is None where the kernel names nobody.
    """

    code = "untrusted_peer"

    def __init__(self, message: str, expected_uid: int, actual_uid: int | None) -> None:
        super().__init__(message)
        self.expected_uid = expected_uid
        self.actual_uid = actual_uid


class SocketNotFoundError(SocketAuthError):
    """There is nothing at that path."""

    code = "not_found"


class SocketPermissionError(SocketAuthError):
    """The path may not be entered, or the socket not be written to."""

    code = "permission_denied"


class SocketRefusedError(SocketAuthError):
    """Nobody listens on the socket any more."""

    code = "connection_refused"


class MonitorBusyError(SocketAuthError):
    """No greeting: the monitor serves another client, or its process hangs."""

    code = "monitor_busy"


class SocketClosedError(SocketAuthError):
    """The peer hung up before it greeted."""

    code = "disconnected"


class NotASocketError(SocketAuthError):
    """The path leads to something that is no stream socket."""

    code = "not_a_socket"


class SymlinkError(SocketAuthError):
    """The path ends in a symbolic link, which could point to another guest's monitor."""

    code = "symlink"


class UnsafeFolderError(SocketAuthError):
    """The socket lies where other users could have put it."""

    code = "unsafe_folder"


class PathTooLongError(SocketAuthError):
    """The path is longer than the file system takes."""

    code = "path_too_long"


# --- the conversation ------------------------------------------------------------------------------------------------


class BalloonError(QemuError):
    """The monitor answered what cannot be used."""

    code = "protocol_error"


class CommandError(BalloonError):
    """QEMU refused a command; ``error_class`` is QMP's class for the reason."""

    def __init__(self, message: str, error_class: str) -> None:
        super().__init__(message)
        self.error_class = error_class


class AnswerTimeoutError(BalloonError):
    """No answer in time. The connection is closed, since a late answer could be taken for the next one's."""

    code = "timeout"


class DisconnectedError(BalloonError):
    """The connection is not, or no longer, there."""

    code = "disconnected"


class NoBalloonError(BalloonError):
    """The guest, called ``name`` in the message, has no balloon device."""

    code = "no_balloon"

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} has no balloon device. Start QEMU with -device virtio-balloon to move its memory")


# --- what a guest did or must not be asked to do -------------------------------------------------------------------------


class StalledError(QemuError):
    """The guest did not reach its target in time."""

    code = "timeout"


class RefusedError(QemuError):
    """The target was refused and the guest left as it was."""


class RolledBackError(QemuError):
    """The guest did well and was returned to where it was, because another one did not."""

    code = "rolled_back"


class NoStatisticsError(RefusedError):
    """The guest gives no statistics that could be believed, so nobody knows what it needs."""

    code = "no_statistics"


class MemoryLockedError(RefusedError):
    """QEMU's process keeps its memory locked: what the guest gave up would not come back to the host."""

    code = "memory_locked"


class SameGuestError(RefusedError):
    """Another socket of the task leads to the same guest."""

    code = "same_guest"


class NotRunningError(RefusedError):
    """The guest is paused, migrating or shut down, so its driver cannot answer."""

    code = "not_running"


class NoDriverError(RefusedError):
    """No balloon driver runs in the guest."""

    code = "no_driver"


class BelowFloorError(RefusedError):
    """The target is below the floor."""

    code = "below_floor"


class AboveMaximumError(RefusedError):
    """The target is above all the memory that the guest has."""

    code = "above_maximum"


class UnsafeTargetError(RefusedError):
    """The target would cut into the guest's headroom."""

    code = "unsafe_target"
