"""What the tests of the classroom share: a sandbox that works, or a visible skip."""

import functools
import os

import pytest

from avi_classroom import backends, sandbox

SECRET = b"a secret for tests"


@functools.cache
def _chosen():
    try:
        return backends.choose(sandbox.probe)
    except backends.NoSandbox as error:
        return error


def back_end():
    """The back end in use; without one the test is skipped, or fails under REQUIRE_SANDBOX=1."""
    chosen = _chosen()
    if isinstance(chosen, Exception):
        (pytest.fail if os.environ.get("REQUIRE_SANDBOX") == "1" else pytest.skip)(str(chosen))
    return chosen
