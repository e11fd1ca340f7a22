"""Tries one forbidden thing and says what came of it: an errno's name, or what it got. Runs inside a bottle."""
import ctypes, errno, os, socket, struct, sys

libc = ctypes.CDLL(None, use_errno=True)


def tcp(host, port, payload=""):
    s = socket.create_connection((host, int(port)), 5)
    print("connected")
    if payload:
        s.sendall(payload.encode())
        try:
            s.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # reset already: what is read says so
    print("got", s.recv(400))


def udp(host, port, payload):
    family = socket.getaddrinfo(host, int(port), 0, socket.SOCK_DGRAM)[0]
    s = socket.socket(family[0], socket.SOCK_DGRAM)
    s.settimeout(1)
    s.connect(family[4])
    s.send(payload.encode())
    print("got", s.recv(400))


def dns(server, transport, name, kind):
    labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
    query = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", int(kind), 1)
    if transport == "tcp":
        s = socket.create_connection((server, 53), 5)
        s.sendall(struct.pack(">H", len(query)) + query)
        answer = s.recv(4096)[2:]
    else:
        s = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
        s.settimeout(5)
        s.connect((server, 53))
        s.send(query)
        answer = s.recv(4096)
    print("rcode", answer[3] & 15)
    if struct.unpack(">H", answer[6:8])[0]:
        print("address", ".".join(map(str, answer[-4:])))


def unix(path):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path.replace("@", "\0", 1))
    print("connected")


def family(number, kind="1", protocol="0"):
    socket.socket(int(number), int(kind), int(protocol))
    print("made")


def families(*all):
    """Several at once: 16:3:15 is a family, a kind and a protocol."""
    for one in all:
        try:
            family(*one.split(":"))
        except OSError as e:
            print(errno.errorcode.get(e.errno, e))


def syscall(number, *args):
    numbers = [ctypes.c_long(int(a, 0)) if a[0].isdigit() or a[0] == "-" else ctypes.c_char_p(a.encode()) for a in args]
    if libc.syscall(ctypes.c_long(int(number)), *numbers) < 0:
        raise OSError(ctypes.get_errno(), "")
    print("done")


def call(name, *args):
    """A function of os: call chmod FILE 0o4755."""
    print("done", getattr(os, name)(*[int(a, 0) if a[:1].isdigit() else a for a in args]))


try:
    globals()[sys.argv[1]](*sys.argv[2:])
except socket.gaierror as e:
    print("no such name", e)
except TimeoutError:
    print("TIMEOUT")
except OSError as e:
    print(errno.errorcode.get(e.errno, e))
