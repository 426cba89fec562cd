from raincheck import TaskFailure
from raincheck.client.sync import connect

with connect("raincheck serve raincheck.toml") as rc:
    try:
        result = rc.run("report", {"topic": "rain"}, max_wait_seconds=600, on_progress=lambda task: print(task.status))
        print("result:", result.value)
    except TaskFailure as failure:
        print("failed:", failure.code, failure.message)
