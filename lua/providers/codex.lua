-- Codex. What the keys mean stands at the head of claude.lua.

local KEY = "sk-proj-" .. string.rep("bottle", 20) .. "-placeholder00AA"

-- At a terminal it would copy itself into its home (60 MB) and start a server of its own there.
local CONFIG = '[analytics]\nenabled = false\n[otel]\nexporter = "none"\n'
  .. '[features]\ndaemon_auto_start = false\nin_app_updates = false\n'
  .. '[projects."{workspace}"]\ntrust_level = "trusted"\n'

-- With a subscription it asks ChatGPT's backend as if that were one more API with a key. As somebody who is logged in it would
-- first ask which workspaces the account has, and work only where it finds its own: the bottle's is a placeholder.
local CHATGPT = 'model_provider = "chatgpt"\n[model_providers.chatgpt]\nname = "ChatGPT"\nwire_api = "responses"\n'
  .. 'base_url = "https://chatgpt.com/backend-api/codex"\nsupports_websockets = true\n'
  .. 'experimental_bearer_token = "{access_token}"\n'

local function config(more)
  return { path = "~/.codex/config.toml", text = "check_for_update_on_startup = false\n" .. more .. CONFIG }
end

local KEY_FILE = { path = "~/.codex/auth.json", text = '{"OPENAI_API_KEY":"' .. KEY .. '"}\n' }
local KEY_ROUTE = { host = "api.openai.com", api = "openai_responses", credential = "openai" }

-- A key, in a variable of the host.
local function key(variable)
  return {
    env = variable,
    placeholder = KEY,
    scheme = "Bearer",
    set = { "OPENAI_API_KEY", "CODEX_API_KEY" },
    files = { KEY_FILE, config("") },
    routes = { KEY_ROUTE },
  }
end

return {
  name = "codex",
  exe = "codex",
  install = "install Codex: npm install -g @openai/codex",

  argv = function(ctx)
    if not ctx.prompt and not ctx.interactive then
      error("provider codex needs a prompt", 0)
    end
    if ctx.prompt == "-" and not ctx.interactive then
      error('codex takes the prompt "-" for its standard input, also behind "--"', 0)
    end
    local argv = { "codex" }
    if ctx.interactive then
      if ctx.resume then
        append(argv, "resume", "--last", "--include-non-interactive")
      end
      append(argv, "--dangerously-bypass-approvals-and-sandbox")
    else
      append(argv, "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")
      if ctx.output == "json" then
        append(argv, "--json")
      end
      if ctx.resume then
        append(argv, "resume", "--last")
      end
    end
    append(argv, ctx.args)
    if ctx.prompt then
      append(argv, "--", ctx.prompt)
    end
    return argv
  end,

  instructions = "~/.codex/AGENTS.md",
  skills = "~/.codex/skills",
  transcript = { "~/.codex/sessions" },
  resumes = true,
  mcp = { file = "~/.codex/config.toml", key = "mcp_servers" },
  count_tokens = "openai_responses",

  credentials = {
    openai = {
      key("OPENAI_API_KEY"),
      key("CODEX_API_KEY"),
      -- A ChatGPT subscription: the host keeps the login and renews it.
      {
        login = "codex",
        files = { config(CHATGPT) },
        routes = {
          {
            host = "chatgpt.com",
            matches = { { paths = { { type = "prefix", value = "/backend-api/codex" } } } },
            api = "openai_responses",
            credential = "openai",
            quiet = { "/backend-api/plugins" },
          },
          {
            host = "auth.openai.com",
            matches = { { methods = { "POST" }, paths = { { type = "exact", value = "/oauth/token" } } } },
            oauth = "openai",
          },
        },
      },
    },
  },

  -- Model lists, plugins and telemetry: looked up at every start, needed for nothing. (With a subscription chatgpt.com has a
  -- route of its own, which holds.)
  quiet_hosts = { "chatgpt.com", "ab.chatgpt.com", "api.github.com", "github.com" },
}
