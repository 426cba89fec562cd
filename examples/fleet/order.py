import os

from raincheck.client.sync import connect

SERVER = os.environ.get("REPORTS_URL", "http://127.0.0.1:8000/mcp")

with connect(SERVER, headers={"Authorization": f"Bearer {os.environ['AGENT_TOKEN']}"}) as rc:
    for topic in ("rain", "snow"):
        result = rc.run("report", {"topic": topic, "pages": 3})
        print(f"{result.value['topic']}: built by {result.value['built_by']}")
