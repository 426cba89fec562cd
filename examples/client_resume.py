from pathlib import Path

from raincheck.client import TaskHandle
from raincheck.client.sync import connect

TICKET = Path("ticket.json")

with connect("raincheck serve raincheck.toml") as rc:
    if TICKET.exists():
        print("resumed")
        result = rc.resume(TaskHandle.from_json(TICKET.read_text()))
    else:
        result = rc.run("report", {"topic": "rain"}, on_submitted=lambda handle: TICKET.write_text(handle.to_json()))
    print("result:", result.value)
    TICKET.unlink()
