"""Many at once on one store: no slide half there, none twice, none lost."""

import pytest

from tests.faults.together import together

ROLES = ["write", "write", "write", "tidy", "index", "read", "read"]


@pytest.mark.timeout(200)
def test_writers_readers_compaction_and_index_for_seconds(tmp_path):
    did = together(tmp_path, 12, ROLES)
    for what in ("written", "slides read", "refused"):
        assert did[what], f"nothing {what}: the roles did not meet ({did})"


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_writers_readers_compaction_and_index_for_minutes(tmp_path):
    did = together(tmp_path, 240, ROLES)
    for what in ("written", "replaced", "busy", "slides read", "compacted", "built"):
        assert did[what], f"nothing {what}: the roles did not meet ({did})"
