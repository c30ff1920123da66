"""Tests of the key service."""

import pytest

pytest.register_assert_rewrite("tests.kms.key_machine")
