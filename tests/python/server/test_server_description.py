"""The server does what its OpenAPI description says, whatever is asked."""

from __future__ import annotations

import pytest

pytest.importorskip("schemathesis", reason="schemathesis is not installed")
