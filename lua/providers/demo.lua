-- The demo agent: a small agent inside bb itself that speaks the Anthropic API with tool use. What the keys mean stands
-- at the head of claude.lua.

return {
  name = "demo",
  exe = "{bb}",
  argv = { "{exe}", "__demo-agent", "-p", "{prompt}" },

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
