-- Codex, headless. What the keys mean stands at the head of claude.lua.

local KEY = "sk-proj-" .. string.rep("bottle", 20) .. "-placeholder00AA"

return {
  name = "codex",
  exe = "codex",
  install = "install Codex: npm install -g @openai/codex",

  argv = function(ctx)
    if not ctx.prompt then
      error("provider codex needs a prompt", 0)
    end
    if ctx.prompt == "-" then
      error('codex takes the prompt "-" for its standard input, also behind "--"', 0)
    end
    local argv = { "codex", "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox" }
    if ctx.output == "json" then
      argv[#argv + 1] = "--json"
    end
    for _, arg in ipairs(ctx.args) do
      argv[#argv + 1] = arg
    end
    argv[#argv + 1] = "--"
    argv[#argv + 1] = ctx.prompt
    return argv
  end,

  files = {
    { path = "~/.codex/auth.json", text = '{"OPENAI_API_KEY":"' .. KEY .. '"}\n' },
    {
      path = "~/.codex/config.toml",
      text = 'check_for_update_on_startup = false\n[analytics]\nenabled = false\n[otel]\nexporter = "none"\n',
    },
  },

  credentials = {
    openai = {
      { env = "OPENAI_API_KEY", placeholder = KEY, scheme = "Bearer", set = { "OPENAI_API_KEY", "CODEX_API_KEY" } },
      { env = "CODEX_API_KEY", placeholder = KEY, scheme = "Bearer", set = { "OPENAI_API_KEY", "CODEX_API_KEY" } },
    },
  },

  routes = {
    { host = "api.openai.com", api = "openai_responses", credential = "openai" },
  },

  -- Model lists, plugins and telemetry: looked up at every start, needed for nothing.
  quiet_hosts = { "chatgpt.com", "ab.chatgpt.com", "api.github.com", "github.com" },
}
