# What the vendors' own SDKs make of an answer that its budget cuts while it streams: one of them, by its number. Leaves what came of
# it in cut-NUMBER.json: how much text came, the error's class and those above it, its text, and the last event that came.
import json
import sys
import time

USER = [{"role": "user", "content": "hi"}]
heard, last = [], []


def listen(stream, text):
    for event in stream:
        last[:] = [str(event)]
        heard.append(text(event) or "")


def held(stream, text):
    with stream as events:
        listen(events, text)


def cases(A, O, C, G, V, K):
    delta = lambda event: getattr(event, "delta", None)
    words = lambda event: getattr(delta(event), "text", "")
    said = lambda event: delta(event) if isinstance(delta(event), str) else ""
    choice = lambda event: event.choices[0].delta.content if event.choices else ""
    part = lambda event: event.text
    claude = {"model": "claude-x", "max_tokens": 9000, "messages": USER}
    chat = {"model": "gpt-x", "messages": USER, "stream": True}
    return [
        ("anthropic", lambda: listen(A.messages.create(stream=True, **claude), words)),
        ("anthropic, by its helper", lambda: held(A.messages.stream(**claude), words)),
        ("openai responses", lambda: listen(O.responses.create(model="gpt-x", input="hi", stream=True), said)),
        ("openai responses, by its helper", lambda: held(O.responses.stream(model="gpt-x", input="hi"), said)),
        ("openai chat", lambda: listen(C.chat.completions.create(**chat), choice)),
        ("openai chat, with usage", lambda: listen(C.chat.completions.create(stream_options={"include_usage": True}, **chat), choice)),
        ("google", lambda: listen(G.models.generate_content_stream(model="gemini-x", contents="hi"), part)),
        ("vertex", lambda: listen(V.models.generate_content_stream(model="gemini-x", contents="hi"), part)),
        ("vertex, by a key", lambda: listen(K.models.generate_content_stream(model="gemini-x", contents="hi"), part)),
    ]


def play(number):
    import anthropic
    import openai
    from google import genai
    from google.oauth2.credentials import Credentials

    A = anthropic.Anthropic(api_key="placeholder")
    O = openai.OpenAI(api_key="placeholder")
    C = openai.OpenAI(api_key="placeholder", base_url="https://chat.example/v1")
    G = genai.Client(api_key="placeholder")
    V = genai.Client(vertexai=True, project="p", location="global", credentials=Credentials("placeholder"))
    K = genai.Client(vertexai=True, api_key="placeholder")
    name, call = cases(A, O, C, G, V, K)[number]
    begun, kinds, text = time.monotonic(), [], ""
    try:
        call()
    except Exception as error:
        kinds = [kind.__module__.split(".")[0] + "." + kind.__name__ for kind in type(error).__mro__]
        text = str(error)
    came = {"name": name, "heard": len("".join(heard)), "kinds": kinds, "text": text, "last": "".join(last)[:4000]}
    with open(f"cut-{number}.json", "w") as file:
        json.dump({**came, "ms": int((time.monotonic() - begun) * 1000)}, file)


if sys.argv[1] == "list":
    print(json.dumps([{"name": name} for name, _ in cases(None, None, None, None, None, None)]))
else:
    play(int(sys.argv[1]))
