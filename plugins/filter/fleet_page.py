# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter ``fleet_page``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.ballast.qemu.plugins.plugin_utils.page import fleet_page

DOCUMENTATION = r"""
name: fleet_page
short_description: Prepare a report of many hosts' guests for a page
version_added: 0.1.0
description:
  - Turns what P(ballast.qemu.fleet_report#filter) returned into what the collection's C(playbooks/templates/report.html.j2)
    shows, sentences, sizes for reading and the widths of bars.
  - All texts are escaped for HTML. Guests' names are whatever somebody called them, and Ansible's templates escape nothing.
options:
  _input:
    description: The report.
    type: dict
    required: true
seealso:
  - plugin: ballast.qemu.fleet_report
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Write a page of one's own
  ansible.builtin.copy:
    dest: /var/lib/rollouts/page.html
    mode: "0600"
    content: |
      <!doctype html>
      <title>{{ page.title }}</title>
      <p>{{ page.verdict }}</p>
  vars:
    page: "{{ lookup('ansible.builtin.file', '/var/lib/rollouts/report.json') | from_json | ballast.qemu.fleet_page }}"
  delegate_to: localhost
"""

RETURN = r"""
_value:
  description:
    - What the page shows, all of it HTML.
    - Its keys follow the page and change with it. For anything but a page use the report itself.
  type: dict
"""


def _filter(report: Any) -> dict[str, Any]:
    try:
        return fleet_page(report)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError("fleet_page: this is not a report of ballast.qemu.fleet_report") from error


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {"fleet_page": _filter}
