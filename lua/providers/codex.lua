-- Codex. What the keys mean stands at the head of claude.lua.

local KEY = "sk-proj-" .. string.rep("bottle", 20) .. "-placeholder00AA"

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
    { path = "~/.codex/auth.json", text = '{"OPENAI_API_KEY":"' .. KEY .. '"}\n' },
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
