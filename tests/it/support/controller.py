"""A controller that asks a keeper for one more listener while its bottle runs, for tests.

    controller.py SOCKET PORT

Speaks what keepers speak (one packet a message, descriptors beside it). Has a command of the bottle try the port before and
after, serves it once, and ends with 0 if all of it came true.
"""
import json
import os
import socket
import sys

PATIENCE = 240
ADDRESS = "10.9.8.7"

path, port = sys.argv[1], int(sys.argv[2])
keeper = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
keeper.settimeout(PATIENCE)
keeper.connect(path)


def ask(**request):
    keeper.send(json.dumps(request).encode())


def hear(kind, **fields):
    while True:
        data, fds, _, _ = socket.recv_fds(keeper, 1 << 17, 32)
        assert data, "the keeper has hung up"
        reply = json.loads(data)
        assert reply["reply"] != "failed", reply
        if reply["reply"] == kind and all(reply[name] == value for name, value in fields.items()):
            return reply, fds
        for fd in fds:
            os.close(fd)


def begin(name):
    url = f"http://{ADDRESS}:{port}/{name}"
    fetch = f"wget -q -O- {url} || curl -sS {url}"
    env = ["PATH=/usr/local/bin:/usr/bin:/bin"]
    ask(verb="exec", id=name, argv=["sh", "-c", fetch], env=env, cwd="/home/agent/work")
    return hear("started", id=name)[0]["exec"]


def ports():
    ask(verb="hello")
    reply, fds = hear("hello")
    for fd in fds:
        os.close(fd)
    assert len(fds) == len(reply["listeners"]) + 2, reply
    return [listener["port"] for listener in reply["listeners"] if listener["kind"] == "tcp"]


assert port not in ports() and 443 in ports()
assert hear("exited", exec=begin("before"))[0]["code"] != 0, "somebody listens there already"
ask(verb="listen", port=port)
reply, fds = hear("listeners")
assert reply["listeners"] == [{"kind": "tcp", "port": port}] and len(fds) == 1, reply
listener = socket.socket(fileno=fds[0])
listener.settimeout(PATIENCE)
number = begin("after")
connection, _ = listener.accept()
connection.settimeout(PATIENCE)
# The socket says which address the agent meant.
meant = connection.getsockname()
assert (meant[0].removeprefix("::ffff:"), meant[1]) == (ADDRESS, port), meant
assert connection.recv(4096).startswith(b"GET /after "), "no request"
connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nserved")
connection.close()
assert hear("exited", exec=number)[0]["code"] == 0
assert port in ports(), "the keeper holds it for whoever comes next"
