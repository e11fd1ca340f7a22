# What the vendors' own SDKs make of a budget that is spent, with the retries that they have by themselves. Spends it first, then
# asks by each of them, and leaves what came of it in spent.json: the error's class and those above it, status, text, time.
import json
import sys
import time

USER = [{"role": "user", "content": "hi"}]


def cases(A, O, C, G, V):
    return [
        ("anthropic", lambda: A.messages.create(model="claude-x", max_tokens=9, messages=USER)),
        ("anthropic, streamed", lambda: list(A.messages.create(model="claude-x", max_tokens=9, messages=USER, stream=True))),
        ("openai responses", lambda: O.responses.create(model="gpt-x", input="hi")),
        ("openai responses, streamed", lambda: list(O.responses.create(model="gpt-x", input="hi", stream=True))),
        ("openai chat", lambda: C.chat.completions.create(model="gpt-x", messages=USER)),
        ("openai chat, streamed", lambda: list(C.chat.completions.create(model="gpt-x", messages=USER, stream=True))),
        ("google", lambda: G.models.generate_content(model="gemini-x", contents="hi")),
        ("google, streamed", lambda: list(G.models.generate_content_stream(model="gemini-x", contents="hi"))),
        ("vertex", lambda: V.models.generate_content(model="gemini-x", contents="hi")),
    ]


def play():
    import anthropic
    import openai
    from google import genai

    A = anthropic.Anthropic(api_key="placeholder")
    O = openai.OpenAI(api_key="placeholder")
    C = openai.OpenAI(api_key="placeholder", base_url="https://chat.example/v1")
    G = genai.Client(api_key="placeholder")
    V = genai.Client(vertexai=True, api_key="placeholder")
    all = cases(A, O, C, G, V)
    all[0][1]()
    # The answer that spent it was the last one.
    while True:
        try:
            all[0][1]()
        except anthropic.APIStatusError:
            break
    got = []
    for name, call in all:
        begun, status, kinds, text = time.monotonic(), 200, [], ""
        try:
            call()
        except Exception as error:
            status = getattr(error, "status_code", None) or getattr(error, "code", None) or 0
            kinds = [kind.__module__.split(".")[0] + "." + kind.__name__ for kind in type(error).__mro__]
            text = str(error)
        got.append({"name": name, "status": status, "kinds": kinds, "text": text, "ms": int((time.monotonic() - begun) * 1000)})
    with open("spent.json", "w") as file:
        json.dump(got, file)


if len(sys.argv) > 1 and sys.argv[1] == "list":
    print(json.dumps([{"name": name} for name, _ in cases(None, None, None, None, None)]))
else:
    play()
