# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation that the modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """Options and attributes of all modules that talk to guests."""

    DOCUMENTATION = r"""
options:
  expected_uid:
    description:
      - Name or number of the user that QEMU runs as.
      - Before a byte is written, the kernel must name this user as the writer of the monitor's greeting, and this user or
        root as the one who listens on the socket. Otherwise the guest fails with C(untrusted_peer).
      - The default is the user that the module runs as. There is no way to switch the check off.
    type: str
attributes:
  platform:
    description: Target OS/families that can be operated against.
    platforms: linux
    support: full
  action_group:
    description: Use C(group/ballast.qemu.qemu) in C(module_defaults) to set defaults for all modules of the collection.
    membership:
      - ballast.qemu.qemu
    support: full
requirements:
  - Python 3.9 or later on the managed host, and nothing else.
  - QEMU with a virtio balloon device (C(-device virtio-balloon)) and a QMP monitor on a UNIX socket
    (C(-qmp unix:PATH,server=on,wait=off)).
author:
  - ballast.qemu contributors (@ballast-qemu)
"""
