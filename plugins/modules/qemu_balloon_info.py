#!/usr/bin/python
# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: qemu_balloon_info
short_description: Read QEMU guests' memory and their host's
version_added: 0.1.0
description:
  - Reads what QEMU, the guests' balloon drivers and the host say about memory, and changes nothing at all. Not even the
    polling of guest statistics is touched, so they are as old as RV(guests[].stats_age) says.
  - All guests of a task are read at once. A guest that cannot be read keeps no other from being read; the task then fails and
    says which and why, with everything that was read in its result.
options:
  socket:
    description:
      - QMP sockets of the guests on the managed host, as absolute paths. Globs are allowed; one that fits nothing is an error.
      - A socket that is a symbolic link, or that lies where other users could have put it, is refused.
    type: list
    elements: path
    required: true
  timeout:
    description: Seconds to wait for each guest's connection, and again for its answers.
    type: int
    default: 10
extends_documentation_fragment:
  - ballast.qemu.guests
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: N/A
  idempotent:
    description: Changes nothing.
    support: full
seealso:
  - module: ballast.qemu.qemu_balloon
"""

EXAMPLES = r"""
- name: Read all guests of the host
  ballast.qemu.qemu_balloon_info:
    socket: /run/vms/*.qmp
    expected_uid: qemu
  register: memory

- name: Say which guests have no balloon driver running
  ansible.builtin.debug:
    msg: "{{ memory.guests | rejectattr('driver') | map(attribute='name') }}"
"""

RETURN = r"""
guests:
  description: Each guest. Sizes are in bytes, and null where they could not be read.
  returned: always, unless an option is wrong
  type: list
  elements: dict
  contains:
    name:
      description: The guest's name; its socket's name where QEMU was started without one.
      type: str
      sample: web1
    uuid:
      description: The guest's UUID, null where it has none.
      type: str
    socket:
      description: Its QMP socket.
      type: str
      sample: /run/vms/web1.qmp
    pid:
      description: The process that runs the guest.
      type: int
    uid:
      description: The user id of that process.
      type: int
    maximum:
      description: The guest's full memory, boot memory and plugged DIMMs.
      type: int
      sample: 268435456
    actual_before:
      description: The guest's memory now, QEMU's C(actual). Null without a balloon device.
      type: int
      sample: 167772160
    actual_after:
      description: The same as RV(guests[].actual_before); nothing was moved.
      type: int
      sample: 167772160
    target:
      description: Always null. QEMU does not tell the target that it has.
      type: int
    rss_before:
      description: Host memory that the guest's process holds now.
      type: int
    rss_after:
      description: The same as RV(guests[].rss_before).
      type: int
    outcome:
      description: C(unchanged), or C(failed) for a guest that could not be read.
      type: str
      sample: unchanged
    seconds:
      description: How long it took.
      type: float
    error:
      description: Null, or what went wrong. A guest without a balloon device has C(no_balloon) here and does not fail the task.
      type: dict
      contains:
        code:
          description: As for M(ballast.qemu.qemu_balloon).
          type: str
        message:
          description: What happened and what to do next.
          type: str
    status:
      description: QEMU's run state.
      type: str
      sample: running
    qemu_version:
      description: QEMU's version.
      type: str
      sample: 7.2.22
    driver:
      description: Whether a balloon driver runs in the guest; null where QEMU (before 7.2) cannot tell.
      type: bool
    deflate_on_oom:
      description: Whether the guest may take memory back by itself when it runs out.
      type: bool
    free_page_reporting:
      description: Whether the guest hands unused memory to the host by itself.
      type: bool
    stats:
      description:
        - What the guest's driver last told, null for a guest that never told anything. Guests can lie.
        - Memory and swapping in bytes (C(available_memory), C(free_memory), C(total_memory), C(disk_caches), C(swap_in),
          C(swap_out)), the rest in counts; null for a figure that the driver does not give.
      type: dict
    stats_age:
      description: Seconds since the driver told, null for never. Old figures say nothing about the guest now.
      type: float
    stats_interval:
      description: Seconds between two updates, 0 for no polling.
      type: int
host:
  description: The host's memory.
  returned: always, unless an option is wrong
  type: dict
  contains:
    total:
      description: All memory, in bytes.
      type: int
    available:
      description: What can be had without swapping, in bytes.
      type: int
    swap_used:
      description: Swap in use, in bytes.
      type: int
    pressure:
      description: The kernel's memory pressure stall information (C(some) and C(full)), null where it keeps none.
      type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.errors import QemuError
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.host import read_host
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.options import (
    EXPECTED_UID_OPTION,
    SOCKET_OPTION,
    expand_sockets,
    parse_expected_uid,
    parse_timeout,
)
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.results import (
    failure_message,
    guest_info,
    host_result,
)
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.runner import run
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.visits import read_guests


def main() -> None:
    """Options in, results out."""
    module = AnsibleModule(
        argument_spec={
            "socket": {**SOCKET_OPTION, "required": True},
            "expected_uid": EXPECTED_UID_OPTION,
            "timeout": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    options = module.params
    try:
        expected_uid = parse_expected_uid(options["expected_uid"])
        timeout = parse_timeout(options["timeout"])
        targets = [(socket, expected_uid) for socket in expand_sockets(options["socket"])]
        outcomes = run(read_guests(targets, timeout or 0.0))
        host = read_host()
    except QemuError as error:
        module.fail_json(msg=str(error))
        raise  # never reached: fail_json ends the module
    results: dict[str, Any] = {
        "changed": False,
        "guests": [guest_info(outcome) for outcome in outcomes],
        "host": host_result(host),
    }
    failure = failure_message(outcomes)
    if failure:
        module.fail_json(msg=failure, **results)
    module.exit_json(**results)


if __name__ == "__main__":
    main()
