#!/usr/bin/python
# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: qemu_memory_policy
short_description: Share a host's memory among its QEMU guests
version_added: 0.1.0
description:
  - Plans all of a host's guests against the host's memory, and carries the plan out in one task.
  - Every guest gets what it needs by its own fresh statistics, as far as the budget allows; what is left over is shared out by
    rules. When there is not enough, the buffers shrink first, and guests that use little are served before guests that use
    much.
  - Guests give first. Only what really came free is given to others, so the host is never promised more memory than the budget,
    or than it was promised before.
  - A guest that is paused, migrating, without a driver or without fresh statistics, whose memory would not come back to the
    host, or that a rule pins, is left alone and charged to the budget. The plan gives the reason.
options:
  socket:
    description:
      - QMP sockets of the host's guests, as absolute paths. Globs are allowed; one that fits nothing is an error.
      - Name all guests of the host. In a budget that is derived from the host, guests that are not named count as memory that
        the host itself uses.
      - A socket that is a symbolic link, or that lies where other users could have put it, is refused.
    type: list
    elements: path
    required: true
  reserve:
    description:
      - Memory that is kept for the host itself.
      - A size like V(4G), or a percentage of the host's memory.
      - Not used with O(budget).
    type: str
    default: 10%
  budget:
    description:
      - Memory for all guests together, in place of what is derived from the host.
      - "Without it the budget is what the guests hold and nobody uses, less O(reserve) and less what QEMU's processes take
        besides their guests. In a container or a memory cgroup the tighter limit counts."
      - A size, or a percentage of the host's memory. More than the host has is an error.
    type: str
  rules:
    description:
      - What holds for which guests. The first rule whose O(rules[].match) fits the guest's name wins.
    type: list
    elements: dict
    default: []
    suboptions:
      match:
        description: Shell pattern for guests' names, like V(web*). Case counts.
        type: str
        required: true
      min:
        description:
          - The guest's floor. It is not planned below it, and with it even below what the guest uses if need be.
          - A size, or a percentage of the guest's full memory.
          - Without it a guest is not planned below what it uses, nor below 96M.
          - Give guests what they can boot with. A target outlives a reboot, and nobody orders crashes.
        type: str
      max:
        description:
          - The guest's ceiling. It is not planned above it.
          - A guest that uses more goes down to what it uses and no further, unless it has a O(rules[].min) as well.
          - A size, or a percentage of the guest's full memory. The default is all of that.
        type: str
      shares:
        description: The guest's weight where memory is shared out. Twice the shares get twice as much of it, V(0) gets none.
        type: int
        default: 1000
      pin:
        description: Leave the guest alone, and charge it to the budget.
        type: bool
        default: false
  buffer:
    description:
      - Room above what a guest uses; both together are what it needs.
      - A percentage of what it uses, or a size.
    type: str
    default: 25%
  deadband:
    description:
      - A change smaller than this is not made, unless the guest is out of its bounds or the budget needs it.
      - A size, or a percentage of the guest's full memory.
    type: str
    default: 32M
  max_step:
    description:
      - No guest shrinks by more than this in one run. Growth is not limited.
      - A size, or a percentage of the guest's full memory. The default is no limit.
    type: str
  timeout:
    description:
      - Seconds to wait for each guest's move.
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
      - What to do with a guest that stops short of its target, or that is not there in time. It fails in any case, and others
        get less where it was to give.
      - V(settle) leaves it where it got to and takes the unreachable target back, so that its driver rests.
      - V(rollback) returns it to where it was.
      - V(keep) leaves the target standing, and the guest trying.
    type: str
    choices: [settle, rollback, keep]
    default: settle
  on_failure:
    description:
      - What to do with the host's other guests when one that moves fails.
      - V(keep) carries on with what came free, and leaves them where the plan has them.
      - V(rollback) returns all of them to where they were.
    type: str
    choices: [keep, rollback]
    default: keep
extends_documentation_fragment:
  - ballast.qemu.guests
attributes:
  check_mode:
    description: Sends no C(balloon) command and returns the plan that a run would carry out.
    support: full
  diff_mode:
    description: Shows each guest's memory before and after.
    support: full
  idempotent:
    description: A second run finds all guests within O(deadband) of what the policy gives them, and changes nothing.
    support: full
seealso:
  - module: ballast.qemu.qemu_balloon
  - module: ballast.qemu.qemu_balloon_info
notes:
  - Statistics count only when they are fresh. Where a guest's polling is off it is switched on while they are read, in check
    mode too, and put back after that. An interval that somebody else has set is left alone and waited for, up to a minute.
  - Runs for guests of the same folder wait for each other, up to two minutes, so that a second one started too early does
    its job after the first.
  - After SIGTERM, SIGINT or SIGHUP, and when its controller is gone, every guest is left where it has got to, with no
    unreachable target. Running again finishes the job.
"""

EXAMPLES = r"""
- name: Share the host's memory among all its guests, and keep a tenth for the host
  ballast.qemu.qemu_memory_policy:
    socket: /run/vms/*.qmp
    expected_uid: qemu

- name: See what a smaller budget would mean
  ballast.qemu.qemu_memory_policy:
    socket: /run/vms/*.qmp
    expected_uid: qemu
    budget: 48G
  check_mode: true
  diff: true

- name: Databases first, builders last, and one guest that nobody touches
  ballast.qemu.qemu_memory_policy:
    socket: /run/vms/*.qmp
    expected_uid: qemu
    reserve: 8G
    rules:
      - match: db-old
        pin: true
      - match: db*
        min: 50%
        shares: 3000
      - match: build*
        max: 75%
        shares: 500
    max_step: 2G
    on_failure: rollback
"""

RETURN = r"""
budget:
  description: Memory for all guests together, in bytes.
  returned: always, unless an option is wrong
  type: int
  sample: 51539607552
reserve:
  description: Memory kept for the host, in bytes; null where O(budget) was given.
  returned: always, unless an option is wrong
  type: int
feasible:
  description:
    - Whether the guests can share the budget. When their floors and what is charged for guests left alone are more than the
      budget, nothing is touched, the task fails, and the message says how much is missing.
  returned: always, unless an option is wrong
  type: bool
  sample: true
plan:
  description: What each guest is to have, and why. Sizes are in bytes, and null for a guest that could not be read.
  returned: always, unless an option is wrong
  type: list
  elements: dict
  contains:
    name:
      description: The guest's name.
      type: str
      sample: web1
    socket:
      description: Its QMP socket.
      type: str
      sample: /run/vms/web1.qmp
    current:
      description: Its memory now, QEMU's C(actual).
      type: int
    target:
      description: The memory that it is to have.
      type: int
    floor:
      description: It is not planned below this.
      type: int
    ceiling:
      description: It is not planned above this.
      type: int
    used:
      description: What it uses, by its own fresh statistics; null where it was not asked or does not tell.
      type: int
    need:
      description: That and the buffer.
      type: int
    shares:
      description: Its weight.
      type: int
    charged:
      description: What it takes of the budget by this plan.
      type: int
    reason:
      description: Why it gets what it gets.
      type: str
      sample: uses 59.4 MiB, needs 74.3 MiB; the rest is its share of what nobody needs
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
    actual_before:
      description: The guest's memory before, QEMU's C(actual).
      type: int
    actual_after:
      description: The guest's memory after. In check mode, what it would be.
      type: int
    target:
      description: The target in bytes that it was given, or the size that it was left at.
      type: int
    rss_before:
      description: Host memory that the guest's process held before.
      type: int
    rss_after:
      description: Host memory that it held after.
      type: int
    outcome:
      description:
        - C(unchanged), it was left where it is; C(converged), it got to its target; C(would_change), in check mode.
        - C(refused), it could not be moved any more when its turn came; C(stalled), it stopped short; C(failed), it could not
          be reached or the connection broke. With any of these the task fails.
      type: str
      sample: converged
    seconds:
      description: How long its move took.
      type: float
    error:
      description:
        - Null, or what is wrong. A guest that is C(unchanged) can have one as well, which does not make the task fail;
          it says why the guest was left alone.
      type: dict
      contains:
        code:
          description:
            - As for M(ballast.qemu.qemu_balloon), and C(no_statistics), C(memory_locked), C(rolled_back).
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
host:
  description: The host's memory before.
  returned: always, unless an option is wrong
  type: dict
  contains:
    total:
      description: All memory, in bytes, or the tighter limit of a container or memory cgroup.
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
timeline:
  description: Every C(balloon) command that was sent, in order.
  returned: always, unless an option is wrong
  type: list
  elements: dict
  contains:
    seconds:
      description: When, in seconds since the run began.
      type: float
    name:
      description: To which guest.
      type: str
    socket:
      description: Over which socket.
      type: str
    target:
      description: The target in bytes.
      type: int
    accepted:
      description: False where QEMU refused it, null where it gave no answer.
      type: bool
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.ballast.qemu.plugins.module_utils.qemu.errors import QemuError
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.lock import sole_run
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.moves import Manner
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.options import (
    EXPECTED_UID_OPTION,
    SOCKET_OPTION,
    expand_sockets,
    parse_allowance,
    parse_expected_uid,
    parse_policy,
    parse_timeout,
)
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.results import (
    difference,
    failure_message,
    guest_result,
    host_result,
    plan_result,
    summarise,
    timeline,
)
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.rollout import Conduct, HostRun, apply_policy
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.runner import run
from ansible_collections.ballast.qemu.plugins.module_utils.qemu.sizes import parse_size


async def work(options: dict[str, Any], check: bool) -> HostRun:
    """Apply the policy. Options are all read before anything is touched."""
    policy, allowance = parse_policy(options), parse_allowance(options)
    manner = Manner(wait=True, timeout=parse_timeout(options["timeout"]), on_stall=options["on_stall"], check=check)
    conduct = Conduct(
        manner=manner,
        tolerance=parse_size(options["tolerance"], "tolerance", zero=True),
        rollback=options["on_failure"] == "rollback",
    )
    expected_uid = parse_expected_uid(options["expected_uid"])
    async with sole_run(expand_sockets(options["socket"])):
        sockets = expand_sockets(options["socket"])  # once more: guests come and go while another run is waited for
        return await apply_policy([(socket, expected_uid) for socket in sockets], policy, allowance, conduct)


def main() -> None:
    """Options in, results out."""
    module = AnsibleModule(
        argument_spec={
            "socket": {**SOCKET_OPTION, "required": True},
            "expected_uid": EXPECTED_UID_OPTION,
            "reserve": {"type": "str", "default": "10%"},
            "budget": {"type": "str"},
            "rules": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "match": {"type": "str", "required": True},
                    "min": {"type": "str"},
                    "max": {"type": "str"},
                    "shares": {"type": "int", "default": 1000},
                    "pin": {"type": "bool", "default": False},
                },
            },
            "buffer": {"type": "str", "default": "25%"},
            "deadband": {"type": "str", "default": "32M"},
            "max_step": {"type": "str"},
            "timeout": {"type": "int"},
            "tolerance": {"type": "str", "default": "1M"},
            "on_stall": {"type": "str", "choices": ["settle", "rollback", "keep"], "default": "settle"},
            "on_failure": {"type": "str", "choices": ["keep", "rollback"], "default": "keep"},
        },
        supports_check_mode=True,
    )
    try:
        host_run = run(work(module.params, module.check_mode))
    except QemuError as error:
        module.fail_json(msg=str(error))
        raise  # never reached: fail_json ends the module
    outcomes = host_run.outcomes
    for warning in (*host_run.warnings, *(warning for outcome in outcomes for warning in outcome.warnings)):
        module.warn(warning)
    results: dict[str, Any] = {
        "changed": any(outcome.changed for outcome in outcomes),
        "budget": host_run.plan.budget,
        "reserve": host_run.reserve,
        "feasible": host_run.plan.feasible,
        "plan": plan_result(host_run),
        "guests": [guest_result(outcome) for outcome in outcomes],
        "summary": summarise(outcomes),
        "host": host_result(host_run.snapshot.host),
        "timeline": timeline(host_run),
        "diff": difference(outcomes),
    }
    failure = str(host_run.error) if host_run.error else failure_message(outcomes)
    if failure:
        module.fail_json(msg=failure, **results)
    module.exit_json(**results)


if __name__ == "__main__":
    main()
