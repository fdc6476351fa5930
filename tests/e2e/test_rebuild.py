"""A version whose artifact or exact toolchain is gone is built again from its kept source."""

from __future__ import annotations

import shutil
import sqlite3

import pytest

from tests.e2e.platform import Platform, until

pytestmark = pytest.mark.root

HELLO = {"handler.py": "def handler(event, context):\n    return 'hello'\n"}


def test_it_answers_again(own_platform: Platform) -> None:
    platform = own_platform.start()
    platform.register()
    platform.deploy("upgraded", "python", HELLO)
    platform.deploy("lost", "python", {"handler.py": HELLO["handler.py"] + "# another\n"})
    assert platform.stop() == 0
    database = sqlite3.connect(platform.data / "hearth.db")
    with database:  # as if the system's Python had been another one then
        database.execute(
            "update versions set toolchain = 'python-3.11.999' where function_id = (select id from functions where name = 'upgraded')"
        )
        (artifact,) = database.execute(
            "select artifact from versions where function_id = (select id from functions where name = 'lost')"
        ).fetchone()
    database.close()
    shutil.rmtree(platform.data / "artifacts" / artifact)
    platform.start()
    for name in ("upgraded", "lost"):
        until(
            lambda name=name: platform.call(f"/fn/ann/{name}").body == b"hello", 30, f"{name} does not answer"
        )
