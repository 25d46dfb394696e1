# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter ``fleet_report``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.ballast.qemu.plugins.plugin_utils.report import fleet_report

DOCUMENTATION = r"""
name: fleet_report
short_description: Sum up what came of many hosts' guests
version_added: 0.1.0
description:
  - Makes one report of the results that M(ballast.qemu.qemu_balloon), or another module of the collection that moves memory,
    returned on many hosts. Hosts that failed come first.
  - Nothing in a result is believed. Whatever a module that crashed or a host that was never reached leaves behind, there is a
    report, and a figure that nobody told is null.
  - The report is plain data. P(ballast.qemu.fleet_page#filter) prepares it for a page.
options:
  _input:
    description: What each host returned, by the host's name. Null, or anything empty, for a host that was not reached.
    type: dict
    required: true
  check:
    description: Whether the results are those of check mode, so that nothing was changed.
    type: bool
    default: false
  started:
    description: When the work began, as it is to be shown.
    type: str
  written:
    description: When the report was written, as it is to be shown.
    type: str
seealso:
  - plugin: ballast.qemu.fleet_page
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Shrink idle guests
  ballast.qemu.qemu_balloon:
    socket: /run/vms/*.qmp
    expected_uid: qemu
    target: 60%
  register: night
  ignore_errors: true
  ignore_unreachable: true

- name: Say what came of it
  ansible.builtin.debug:
    msg: "{{ report.totals.hosts.failed }} of {{ report.totals.hosts.total }} hosts failed"
  vars:
    results: "{{ ansible_play_hosts_all | map('extract', hostvars) | map(attribute='night', default=false) }}"
    report: >-
      {{ dict(ansible_play_hosts_all | zip(results)) | ballast.qemu.fleet_report(check=ansible_check_mode) }}
  run_once: true
"""

RETURN = r"""
_value:
  description: The report. Sizes are in bytes, and null where they are not known.
  type: dict
  contains:
    check:
      description: Whether nothing was changed.
      type: bool
    started:
      description: When the work began, null where nobody said.
      type: str
    written:
      description: When the report was written, null where nobody said.
      type: str
    remaining:
      description: The names of the hosts that failed or were not reached.
      type: list
      elements: str
    totals:
      description:
        - The fleet's figures. Sums are over what is known.
        - Of the hosts, C(done), C(failed), which includes C(unreachable), and C(not_reached) add up to C(total); C(changed) and
          C(unchanged) add up to C(done).
      type: dict
      contains:
        hosts:
          description: C(total), C(done), C(changed), C(unchanged), C(failed), C(unreachable) and C(not_reached).
          type: dict
        guests:
          description: C(total), C(changed), C(failed), and C(measured), whose memory is known before and after.
          type: dict
        before:
          description: The measured guests' memory before.
          type: int
        after:
          description: The measured guests' memory after; in check mode what it would be.
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
        memory:
          description: The hosts' memory.
          type: int
        memory_hosts:
          description: Number of hosts that told their memory.
          type: int
        budget:
          description: What guests may have on the hosts.
          type: int
        budget_hosts:
          description: Number of hosts that told their budget.
          type: int
    hosts:
      description: >-
        The hosts. Those that failed come first, then those that were unreachable, that changed, that did not, and that were
        not reached; by name among each other.
      type: list
      elements: dict
      contains:
        name:
          description: The host's name.
          type: str
        status:
          description: One of C(failed), C(unreachable), C(changed), C(would_change), C(unchanged), C(not_reached).
          type: str
        message:
          description: Null, or what went wrong.
          type: str
        warnings:
          description: What the host's module warned of.
          type: list
          elements: str
        feasible:
          description: Whether the host's plan could be carried out, null where there was none.
          type: bool
        memory:
          description: The host's memory.
          type: int
        available:
          description: What of it was available before.
          type: int
        swap_used:
          description: What the host had swapped out before.
          type: int
        reserve:
          description: What the host keeps for itself, null also where the budget was given.
          type: int
        budget:
          description: What all guests together may have.
          type: int
        before:
          description: The measured guests' memory before.
          type: int
        after:
          description: The measured guests' memory after; in check mode what it would be.
          type: int
        measured:
          description: Number of guests whose memory is known before and after.
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
        guests:
          description: The guests, those that failed first, by name among each other.
          type: list
          elements: dict
          contains:
            name:
              description: The guest's name.
              type: str
            socket:
              description: Its QMP socket.
              type: str
            before:
              description: Its memory before.
              type: int
            after:
              description: Its memory after; in check mode what it would be.
              type: int
            maximum:
              description: Its full memory.
              type: int
            target:
              description: What it was to have.
              type: int
            gain:
              description: By how much its process shrank.
              type: int
            outcome:
              description: The module's word for what came of it, or null.
              type: str
            floor:
              description: It was not planned below it.
              type: int
            ceiling:
              description: It was not planned above it.
              type: int
            reason:
              description: Why it was to have that, null where there was no plan.
              type: str
            error:
              description: Null, or the C(code) and C(message) of what went wrong.
              type: dict
"""


def _filter(results: object, check: bool = False, started: str | None = None, written: str | None = None) -> dict[str, Any]:
    if not isinstance(results, Mapping):
        raise AnsibleFilterError(f"fleet_report: give it a dictionary of hosts and their results, not {type(results).__name__}")
    return fleet_report(results, check=bool(check), started=started, written=written)


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {"fleet_report": _filter}
