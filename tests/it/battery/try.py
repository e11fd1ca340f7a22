"""Tries one forbidden thing and says what came of it: an errno's name, or what it got. Runs inside a bottle."""
import ctypes, errno, mmap, os, socket, struct, sys, threading

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

def unescaped(text):
    """The bytes that are meant by a text with \\r, \\0 and \\xff in it."""
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")


def heard(s):
    """Prints what the other side says until it closes, or has said nothing for a while."""
    s.settimeout(1)
    said = b""
    try:
        while more := s.recv(65536):
            said += more
    except TimeoutError:
        said += b"(still open)"
    print(said.decode("latin-1") or "closed")


def raw(host, port, text):
    """Sends bytes as they are: an HTTP request that no client would write."""
    s = socket.create_connection((host, int(port)), 5)
    s.sendall(unescaped(text))
    heard(s)


def greeting(name):
    """Gets a TLS client and the first bytes that it would send."""
    global ssl
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    came, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(came, goes, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return client, came, goes, goes.read()


def greets(host, port, first):
    s = socket.create_connection((host, int(port)), 5)
    s.sendall(first)
    s.settimeout(1.5)
    answer = s.recv(4096)
    print({b"": "closed", b"\x15": f"alert {answer[-1:].hex()}", b"\x16": "greeted"}[answer[:1]])


def sni(host, port, name):
    """Greets with a server name of any bytes."""
    name = unescaped(name)
    stand_in = (b"aaaaaaa." * 40)[: len(name) - 1] + b"a"
    first = greeting(stand_in.decode())[3]
    assert first.count(stand_in) == 1
    greets(host, port, first.replace(stand_in, name))


def ech(host, port, name):
    """Greets with an Encrypted Client Hello (extension 0xfe0d), which hides a second name."""
    first = greeting(name)[3]
    body = bytearray(first[5:])
    at = 4 + 2 + 32
    at += 1 + body[at]
    at += 2 + struct.unpack(">H", body[at : at + 2])[0]
    at += 1 + body[at]
    inside = struct.pack(">BHHBH", 0, 1, 1, 7, 32) + bytes(32) + struct.pack(">H", 64) + b"s3cr3t".ljust(64, b".")
    hidden = struct.pack(">HH", 0xFE0D, len(inside)) + inside
    body[at : at + 2] = struct.pack(">H", struct.unpack(">H", body[at : at + 2])[0] + len(hidden))
    body += hidden
    body[1:4] = struct.pack(">I", len(body) - 4)[1:]
    greets(host, port, first[:3] + struct.pack(">H", len(body)) + bytes(body))


def pieces(host, port, name, path):
    """Greets in records of 16 bytes, so that the name lies in several, then asks."""
    client, came, goes, first = greeting(name)
    s = socket.create_connection((host, int(port)), 5)
    s.settimeout(5)
    for at in range(5, len(first), 16):
        piece = first[at : at + 16]
        s.sendall(first[:3] + struct.pack(">H", len(piece)) + piece)
    while True:
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            s.sendall(goes.read())
            came.write(s.recv(65536))
    client.write(f"GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
    s.sendall(goes.read())
    said = b""
    while more := s.recv(65536):
        came.write(more)
        try:
            while part := client.read(65536):
                said += part
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
    print(said.decode("latin-1"))


def questions(server, *names):
    """One DNS query with several questions."""
    query = struct.pack(">6H", 7, 0x100, len(names), 0, 0, 0)
    for name in names:
        query += b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0" + struct.pack(">2H", 1, 1)
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(5)
    s.connect((server, 53))
    s.send(query)
    answer = s.recv(4096)
    print("rcode", answer[3] & 15, "answers", struct.unpack(">H", answer[6:8])[0])


def send(host, port, size):
    """A datagram, of a size that has to be cut on its way; asks for no answer."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect((host, int(port)))
    s.send(b"s3cr3t".ljust(int(size), b"."))
    s.settimeout(0.5)
    try:
        s.recv(400)
    except TimeoutError:
        print("no answer")


def relay(port, host, to, url):
    """A proxy of one's own, as a child would use it: asks for an address through it."""
    listener = socket.create_server(("127.0.0.1", int(port)))

    def carry():
        near = listener.accept()[0]
        far = socket.create_connection((host, int(to)), 5)
        far.sendall(near.recv(65536))
        while more := far.recv(65536):
            near.sendall(more)
        near.close()

    threading.Thread(target=carry, daemon=True).start()
    name = url.split("/")[2]
    s = socket.create_connection(("127.0.0.1", int(port)))
    s.sendall(f"GET /{url.split('/', 3)[3]} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
    heard(s)


def int80(number):
    """A call by the 32-bit door: mov eax, number; int 0x80; ret."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8" + struct.pack("<I", int(number)) + b"\xcd\x80\xc3")
    print("did", ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))(), flush=True)


def memfd(program, *args):
    """Runs a program that lies in memory only."""
    fd = os.memfd_create("x")
    with open(program, "rb") as f:
        os.write(fd, f.read())
    os.execve(fd, [program, *args], os.environ)


try:
    globals()[sys.argv[1]](*sys.argv[2:])
except socket.gaierror as e:
    print("no such name", e)
except TimeoutError:
    print("TIMEOUT")
except OSError as e:
    print(errno.errorcode.get(e.errno, e))
