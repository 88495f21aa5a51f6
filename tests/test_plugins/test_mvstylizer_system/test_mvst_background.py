"""Calls in daemon threads."""

import asyncio
import subprocess
import sys

import pytest

from mmext.plugins.mvstylizer.system.background import in_daemon


def test_result_and_error_come_back():
    assert asyncio.run(in_daemon(divmod, 7, 3)) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(in_daemon(divmod, 7, 0))


def test_a_process_ends_while_a_call_runs():
    script = (
        'import asyncio, time\n'
        'from mmext.plugins.mvstylizer.system.background import in_daemon\n'
        'async def main():\n'
        '    await asyncio.wait([asyncio.ensure_future(in_daemon(time.sleep, 600))], timeout=0.1)\n'
        'asyncio.run(main())\n'
    )
    assert subprocess.run([sys.executable, '-c', script], timeout=60).returncode == 0
