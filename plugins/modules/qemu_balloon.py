#!/usr/bin/python
# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: qemu_balloon
short_description: Bring QEMU guests' memory to a target
version_added: 0.1.0
description:
  - Moves memory between running QEMU guests and their host with QEMU's virtio balloon, over QMP.
  - All guests of a task are worked on at once. One guest's failure keeps no other guest from being served; the task then
    fails and says which guest failed and why.
  - A target that would harm a guest is refused, with the lowest one that would do.
  - A guest has reached its target when QEMU says so. The result also tells what the host really gained, from the memory of
    the QEMU process.
options:
  socket:
    description:
      - QMP sockets of the guests on the managed host, as absolute paths. Globs are allowed; one that fits nothing is an error.
      - A socket that is a symbolic link, or that lies where other users could have put it, is refused.
      - Mutually exclusive with O(guests).
    type: list
    elements: path
  target:
    description:
      - The memory that each guest is to have.
      - A size like V(512M), V(1.5GiB) or V(536870912) (bytes; units are binary), a percentage of the guest's full memory like
        V(60%), or V(max) for all of it.
      - Needed with O(socket). With O(guests), it is for those that have no O(guests[].target).
    type: str
  guests:
    description:
      - Guests with targets of their own.
      - Mutually exclusive with O(socket).
    type: list
    elements: dict
    suboptions:
      socket:
        description: The guest's QMP socket, as an absolute path.
        type: path
        required: true
      target:
        description: As O(target), for this guest.
        type: str
      expected_uid:
        description: As O(expected_uid), for this guest.
        type: str
      floor:
        description: As O(floor), for this guest.
        type: str
  floor:
    description:
      - A target below it is refused with C(below_floor). QEMU itself takes any target, down to one that kills the guest.
      - A size, or a percentage of the guest's full memory.
    type: str
    default: 128M
  headroom:
    description:
      - Memory that must stay available inside a guest that shrinks. A target that would cut into it is refused with
        C(unsafe_target) and the lowest target that would do.
      - Judged by statistics that the guest's driver gives at this moment. Where their polling is off it is switched on while
        they are read, in check mode too, and put back after that. An interval that somebody else has set is left alone and
        waited for, up to a minute.
      - A guest that gives no statistics is guarded by O(floor) alone, and a warning says so.
      - A size, or a percentage of the guest's full memory. V(0) switches the check off.
    type: str
    default: 64M
  wait:
    description:
      - Whether to wait until the guests have reached their targets.
      - Without waiting a guest that has to move ends as C(pending), and nobody sees whether it gets there.
    type: bool
    default: true
  timeout:
    description:
      - Seconds to wait for each guest.
      - The default grows with the change, 30 seconds or 6 seconds a GiB, whichever is more.
      - A guest that makes no progress for 5 seconds has stalled, whatever the timeout.
    type: int
  tolerance:
    description:
      - A guest that is no further than this from its target is at its target.
      - A size, or a percentage of the guest's full memory.
    type: str
    default: 1M
  on_stall:
    description:
      - What to do with a guest that stops short of its target, or that is not there in time. It fails in any case.
      - V(settle) leaves it where it got to and takes the unreachable target back, so that its driver rests.
      - V(rollback) returns it to where it was.
      - V(keep) leaves the target standing, and the guest trying.
    type: str
    choices: [settle, rollback, keep]
    default: settle
extends_documentation_fragment:
  - ballast.qemu.guests
attributes:
  check_mode:
    description: Sends no C(balloon) command and reports what would change, or be refused.
    support: full
  diff_mode:
    description: Shows each guest's memory before and after.
    support: full
  idempotent:
    description:
      - A guest within O(tolerance) of its target is left alone. QEMU does not tell whether another target stands there, one
        that was set without waiting, kept after a stall, or given to a paused guest; see the notes.
    support: full
seealso:
  - module: ballast.qemu.qemu_balloon_info
notes:
  - Where a target was left standing (O(wait=false), O(on_stall=keep), or another tool), wait for the guest to come to rest
    before asking for another size.
  - While the module works it holds the guests' monitors; QEMU serves one client a monitor.
  - After SIGTERM, SIGINT or SIGHUP every guest is left where it has got to, with no unreachable target.
"""

EXAMPLES = r"""
- name: Shrink all idle guests to 60 % of their memory
  ballast.qemu.qemu_balloon:
    socket: /run/vms/*.qmp
    expected_uid: qemu
    target: 60%

- name: Give two guests all their memory back
  ballast.qemu.qemu_balloon:
    socket:
      - /run/vms/web1.qmp
      - /run/vms/web2.qmp
    target: max

- name: Different targets in one task, and back to where they were if a guest cannot follow
  ballast.qemu.qemu_balloon:
    guests:
      - socket: /run/vms/db1.qmp
        target: 6G
        floor: 4G
      - socket: /run/vms/build.qmp
        target: 25%
        expected_uid: builder
    headroom: 512M
    on_stall: rollback
"""

RETURN = r"""
guests:
  description: What came of each guest. Sizes are in bytes, and null where they could not be read.
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
      description: The guest's memory before, QEMU's C(actual).
      type: int
      sample: 268435456
    actual_after:
      description: The guest's memory after. In check mode, what it would be.
      type: int
      sample: 167772160
    target:
      description: The target in bytes.
      type: int
      sample: 167772160
    rss_before:
      description: Host memory that the guest's process held before.
      type: int
    rss_after:
      description: Host memory that it held after.
      type: int
    outcome:
      description:
        - C(unchanged), it was at its target; C(converged), it got there; C(pending), it has the target and nobody waited;
          C(would_change), in check mode.
        - C(refused), the target was refused and nothing was touched; C(stalled), it stopped short; C(failed), it could not be
          reached or the connection broke. With any of these the task fails.
      type: str
      sample: converged
    seconds:
      description: How long it took.
      type: float
    error:
      description: Null, or what went wrong.
      type: dict
      contains:
        code:
          description:
            - One of C(not_found), C(permission_denied), C(connection_refused), C(monitor_busy), C(untrusted_peer), C(symlink),
              C(unsafe_folder), C(not_a_socket), C(path_too_long), C(protocol_error), C(timeout), C(disconnected),
              C(no_balloon), C(same_guest), C(not_running), C(no_driver), C(below_floor), C(above_maximum), C(unsafe_target);
              C(failed) for anything else.
          type: str
        message:
          description: What happened and what to do next.
          type: str
summary:
  description: The task as a whole. Sizes are in bytes.
  returned: always, unless an option is wrong
  type: dict
  contains:
    guests:
      description: Number of guests.
      type: int
    changed:
      description: Number of guests that moved, or would.
      type: int
    failed:
      description: Number of guests that were refused, stalled or failed.
      type: int
    reclaimed:
      description: What guests gave up.
      type: int
    returned:
      description: What guests got back.
      type: int
    host_gain:
      description: By how much the guests' processes shrank; negative where they grew.
      type: int
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.errors import QemuError
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.lock import sole_run
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.moves import Manner, bring_to_targets
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.options import (
    EXPECTED_UID_OPTION,
    SOCKET_OPTION,
    parse_requests,
    parse_timeout,
)
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.results import (
    difference,
    failure_message,
    guest_result,
    summarise,
)
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.runner import run
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.targets import Request
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.visits import Outcome


async def work(requests: list[Request], manner: Manner) -> list[Outcome]:
    """Bring the guests to their targets, one run at a time."""
    async with sole_run(request.socket for request in requests):
        return await bring_to_targets(requests, manner)


def main() -> None:
    """Options in, results out."""
    module = AnsibleModule(
        argument_spec={
            "socket": SOCKET_OPTION,
            "target": {"type": "str"},
            "guests": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "socket": {"type": "path", "required": True},
                    "target": {"type": "str"},
                    "expected_uid": EXPECTED_UID_OPTION,
                    "floor": {"type": "str"},
                },
            },
            "expected_uid": EXPECTED_UID_OPTION,
            "floor": {"type": "str", "default": "128M"},
            "headroom": {"type": "str", "default": "64M"},
            "wait": {"type": "bool", "default": True},
            "timeout": {"type": "int"},
            "tolerance": {"type": "str", "default": "1M"},
            "on_stall": {"type": "str", "choices": ["settle", "rollback", "keep"], "default": "settle"},
        },
        mutually_exclusive=[("socket", "guests")],
        required_one_of=[("socket", "guests")],
        supports_check_mode=True,
    )
    options = module.params
    try:
        requests = parse_requests(options)
        manner = Manner(
            wait=options["wait"],
            timeout=parse_timeout(options["timeout"]),
            on_stall=options["on_stall"],
            check=module.check_mode,
        )
        outcomes = run(work(requests, manner))
    except QemuError as error:
        module.fail_json(msg=str(error))
        raise  # never reached: fail_json ends the module
    for outcome in outcomes:
        for warning in outcome.warnings:
            module.warn(warning)
    results: dict[str, Any] = {
        "changed": any(outcome.changed for outcome in outcomes),
        "guests": [guest_result(outcome) for outcome in outcomes],
        "summary": summarise(outcomes),
        "diff": difference(outcomes),
    }
    failure = failure_message(outcomes)
    if failure:
        module.fail_json(msg=failure, **results)
    module.exit_json(**results)


if __name__ == "__main__":
    main()
