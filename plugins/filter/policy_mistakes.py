# Copyright (c) 2026, ballast.qemu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter ``policy_mistakes``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.ballast.qemu.plugins.plugin_utils.mistakes import policy_mistakes

DOCUMENTATION = r"""
name: policy_mistakes
short_description: Find mistakes in a host's policy without the host
version_added: 0.1.0
description:
  - Reads sizes, rules and sockets' paths of the role P(ballast.qemu.memory_policy#role) as the modules will, on the controller.
  - Types are left to the role's argument specs, and users to the host.
options:
  _input:
    description: The role's variables that are set, by their names.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Check a policy before the host is there
  ansible.builtin.assert:
    that: "{'memory_policy_budget': '48G'} | ballast.qemu.policy_mistakes == []"
"""

RETURN = r"""
_value:
  description: What is wrong and what to write, a sentence for each variable. Empty where nothing is.
  type: list
  elements: str
"""


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {"policy_mistakes": policy_mistakes}
