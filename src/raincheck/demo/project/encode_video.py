"""The command that the demo serves: a program that works for nine seconds, tells how far it is, and prints JSON."""

import json
import sys
import time

for second in range(9):
    print(f"raincheck-progress: {second / 9:.2f} second {second + 1} of 9", file=sys.stderr, flush=True)
    time.sleep(1)
print(json.dumps({"file": f"{sys.argv[1]}.webm", "frames": 216}))
