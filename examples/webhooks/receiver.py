"""A receiver of webhooks: python receiver.py PORT, with its secret (raincheck tasks webhooks secret URL) in
WEBHOOK_SECRET."""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

webhook = Webhook(os.environ["WEBHOOK_SECRET"])
seen: set[str] = set()  # keep it where it survives a restart


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            message = webhook.verify(body, dict(self.headers))
        except WebhookVerificationError:
            self.send_response(401)
        else:
            self.send_response(204)
            # At least once: the same message may come again, under the same id.
            if self.headers["webhook-id"] not in seen:
                seen.add(self.headers["webhook-id"])
                task = message["data"]
                print(message["type"], task["task_ref"], task["result"] or task["error"], flush=True)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
    print(f"listening on {server.server_port}", flush=True)
    server.serve_forever()
