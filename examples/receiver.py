"""What receives the messages of a room: prints each of them once, and nothing that is not from the server."""

import os
from http.server import BaseHTTPRequestHandler, HTTPServer

from securechat import webhooks

SECRET = os.environ["WEBHOOK_SECRET"]
seen: set[str] = set()  # Keep it where it survives a restart.


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), 1_000_000))
        try:
            event = webhooks.verify(dict(self.headers), body, SECRET)
        except webhooks.InvalidSignature:
            self.send_response(401)
        else:
            if event.id not in seen and event.type == "message.sent":
                print(f"{event.data['user']}: {event.data.get('body', '(deleted)')}")
            seen.add(event.id)
            self.send_response(204)
        self.end_headers()


port = int(os.environ.get("PORT", "8000"))
print(f"listening on {port}")
HTTPServer(("127.0.0.1", port), Receiver).serve_forever()
