-- Codex. What the keys mean stands at the head of claude.lua.

local KEY = "sk-proj-" .. string.rep("bottle", 20) .. "-placeholder00AA"

-- What stands where the host's login would: tokens in the form that Codex reads (RFC 7519). All of them say: nobody's account,
-- good until the year 2100, so that Codex has no reason to renew them. The host puts in its own, and the account's id.
local TOKEN = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9."
  .. "eyJpc3MiOiJodHRwczovL2F1dGgub3BlbmFpLmNvbSIsInN1YiI6ImJvdHRsZSIsImlhdCI6MTc2NzIyNTYwMCwiZX"
  .. "hwIjo0MTAyNDQ0ODAwLCJlbWFpbCI6ImFnZW50QGJvdHRsZS5pbnZhbGlkIiwiaHR0cHM6Ly9hcGkub3BlbmFpLmNv"
  .. "bS9hdXRoIjp7ImNoYXRncHRfYWNjb3VudF9pZCI6IjAwMDAwMDAwLTAwMDAtNDAwMC04MDAwLTAwMDAwMDAwMDAwMC"
  .. "IsImNoYXRncHRfcGxhbl90eXBlIjoicGx1cyIsImNoYXRncHRfdXNlcl9pZCI6InVzZXItYm90dGxlIiwidXNlcl9p"
  .. "ZCI6InVzZXItYm90dGxlIn19"
  .. ".Ym90dGxlLXBsYWNlaG9sZGVyMDBBQQ"
local LOGIN = '{"auth_mode":"chatgpt","OPENAI_API_KEY":null,"tokens":{"id_token":"'
  .. TOKEN
  .. '","access_token":"'
  .. TOKEN
  .. '","refresh_token":"rt_bottle-placeholder00AA","account_id":"00000000-0000-4000-8000-000000000000"},'
  .. '"last_refresh":"2099-01-01T00:00:00Z"}\n'

local KEY_FILE = { path = "~/.codex/auth.json", text = '{"OPENAI_API_KEY":"' .. KEY .. '"}\n' }
local KEY_ROUTE = { host = "api.openai.com", api = "openai_responses", credential = "openai" }

-- A key, in a variable of the host.
local function key(variable)
  return {
    env = variable,
    placeholder = KEY,
    scheme = "Bearer",
    set = { "OPENAI_API_KEY", "CODEX_API_KEY" },
    files = { KEY_FILE },
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

  files = {
    {
      path = "~/.codex/config.toml",
      -- At a terminal it would copy itself into its home (60 MB) and start a server of its own there.
      text = 'check_for_update_on_startup = false\n[analytics]\nenabled = false\n[otel]\nexporter = "none"\n'
        .. '[features]\ndaemon_auto_start = false\nin_app_updates = false\n'
        .. '[projects."{workspace}"]\ntrust_level = "trusted"\n',
    },
  },

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
        files = { { path = "~/.codex/auth.json", text = LOGIN } },
        routes = {
          {
            host = "chatgpt.com",
            matches = { { paths = { { type = "prefix", value = "/backend-api/codex" } } } },
            api = "openai_responses",
            credential = "openai",
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
