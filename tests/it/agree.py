# Sends each request of a list as it stands there, spelling and all, which no library would do: each line of the input is
# [url, method, headers], each of the output what came back, {status, kind} or {error}.
import http.client
import json
import socket
import ssl
import sys

lenient = ssl.create_default_context()
lenient.check_hostname = False
lenient.verify_mode = ssl.CERT_NONE
PROMPT = json.dumps({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]})
HANDSHAKE = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
             "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]


def address(host, port):
    # What no resolver takes is sent to where an allowed name leads: it shall be refused for what it says.
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
    except (OSError, UnicodeError):
        return socket.gethostbyname("exact.example")


def is_address(host):
    try:
        socket.getaddrinfo(host, 0, flags=socket.AI_NUMERICHOST)
        return True
    except (OSError, UnicodeError):
        return False


def ask(url, method, headers):
    scheme, rest = url.split("://", 1)
    end = min([at for at in map(rest.find, "/?#") if at >= 0] or [len(rest)])
    authority, target = rest[:end], rest[end:]
    target = target if target.startswith("/") else "/" + target
    tls = scheme in ("https", "wss")
    bare = authority.rsplit("@", 1)[-1]
    host, port = bare, ""
    if not bare.endswith("]") and ":" in bare:
        host, port = bare.rsplit(":", 1)
    host = host.strip("[]")
    usual = 443 if tls else 80
    port = int(port) if port.isdigit() and 0 < int(port) < 65536 else usual
    named = {line.split(":")[0].lower() for line in headers}
    lines = list(headers)
    if "host" not in named:
        lines.insert(0, "Host: " + authority)
    if scheme.startswith("ws"):
        lines += HANDSHAKE
    length = next((int(line.split(":")[1]) for line in headers if line.lower().startswith("content-length")), None)
    body = PROMPT.encode() if host.endswith("anthropic.com") and method == "POST" else b"x" * (length or 0)
    if body and length is None:
        lines.append("Content-Length: %d" % len(body))
    head = "%s %s HTTP/1.1\r\n%s\r\n\r\n" % (method, target, "\r\n".join(lines))
    try:
        stream = socket.create_connection((address(host, port), port), timeout=60)
    except ConnectionRefusedError:
        return {"error": "refused"}
    try:
        if tls:
            name = None if is_address(host) else host.rstrip(".").lower()
            stream = lenient.wrap_socket(stream, server_hostname=name)
        stream.sendall(head.encode() + body)
        answer = http.client.HTTPResponse(stream, method=method)
        answer.begin()
        answer.read()
        return {"status": answer.status, "kind": answer.getheader("x-bb-deny")}
    except (OSError, http.client.HTTPException) as error:
        return {"error": repr(error)}
    finally:
        stream.close()


for line in sys.stdin:
    print(json.dumps(ask(*json.loads(line))), flush=True)
