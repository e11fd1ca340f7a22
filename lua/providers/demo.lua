-- The demo agent: a small agent inside bb itself that speaks the Anthropic API with tool use. What the keys mean stands
-- at the head of claude.lua.

return {
  name = "demo",
  exe = "{bb}",
  argv = function(ctx)
    if not ctx.prompt then
      error("provider demo needs a prompt: it has no interface of its own", 0)
    end
    local argv = { ctx.exe, "__demo-agent", "-p", ctx.prompt }
    if ctx.instructions then
      append(argv, "--instructions", ctx.instructions)
    end
    append(argv, ctx.args)
    return argv
  end,

  credentials = {
    anthropic = {
      {
        env = "ANTHROPIC_API_KEY",
        placeholder = "sk-ant-api03-" .. string.rep("bottle", 13) .. "-placeholder00AA",
        scheme = "header",
        header = "x-api-key",
      },
    },
  },

  routes = {
    { host = "api.anthropic.com", api = "anthropic", credential = "anthropic" },
  },
}
