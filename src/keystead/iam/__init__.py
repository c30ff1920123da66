"""Who may do what: principals, projects, roles, policies, service agents.

Read `authorizer` first (the decision), then `policies` (what is decided from), `hierarchy` (what inherits
from what) and `conditions`. `iam_policy`, `resource_manager`, `resource_manager_v1`, `service_usage` and
`role_catalog` serve APIs; `bootstrap` makes the first organization.
"""
