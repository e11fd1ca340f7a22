-- The `bb` table itself, and `require` and `print`: what the parts before this one made, under the names that recipes use. Adds
-- no ability of its own.

local host, _, _, parts = ...
local handles, tasks, text = parts.handles, parts.tasks, parts.text
local freeze, check, raising = parts.errors.freeze, parts.errors.check, parts.errors.raising
local misuse, closed = parts.errors.misuse, parts.errors.closed

-- The log -----------------------------------------------------------------------------------------------------------

local function logger(level)
  return function(...)
    host.log(level, text.of(...))
  end
end

local log = closed({
  info = logger("info"),
  warn = logger("warn"),
  error = logger("error"),
}, "bb.log", function(_, ...)
  host.log("info", text.of(...))
end)

-- Modules -----------------------------------------------------------------------------------------------------------

local loaded = {}
local LOADING = {}

local function require(name)
  local key, f = check(host.module(name))
  local value = loaded[key]
  if value == LOADING then
    misuse("the modules require each other in a circle: " .. name)
  end
  if value == nil then
    loaded[key] = LOADING
    value = f()
    if value == nil then
      value = true
    end
    loaded[key] = value
  end
  return value
end

-- The table ---------------------------------------------------------------------------------------------------------

local bb = closed({
  version = host.version,
  run = closed({ id = host.run_id, recipe = host.recipe }, "bb.run"),
  args = freeze(host.args),
  launch = handles.launch,
  providers = raising(host.providers),
  meter = closed({
    of = function(bottle)
      return check(host.meter_of(handles.own(bottle, "usage")))
    end,
    parse = raising(host.meter_parse),
  }, "bb.meter"),
  ledger = closed({ query = raising(host.ledger_query) }, "bb.ledger"),
  budget = closed({ set = raising(host.budget_set), get = raising(host.budget_get) }, "bb.budget"),
  spawn = tasks.spawn,
  all = tasks.all,
  race = tasks.race,
  sleep = raising(host.sleep),
  try = tasks.try,
  on = handles.on,
  log = log,
  text = closed({ style = text.style, pad = text.pad, number = text.number, table = text.lay_out }, "bb.text"),
  manifest = closed({
    agent = raising(host.manifest_agent),
    agents = raising(host.manifest_agents),
    bottles = raising(host.manifest_bottles),
  }, "bb.manifest"),
  plan = handles.plan,
  ui = closed({
    terminal = raising(host.ui_terminal),
    pick = raising(host.ui_pick),
    choose = raising(host.ui_choose),
    ask = raising(host.ui_ask),
    confirm = raising(host.ui_confirm),
    note = function(...)
      return check(host.ui_note(text.of(...)))
    end,
    rows = raising(host.ui_rows),
  }, "bb.ui"),
  rehearse = raising(host.rehearse),
  rehearsing = raising(host.rehearsing),
  exit = raising(host.exit),
}, "bb")

return {
  bb = bb,
  require = require,
  print = function(...)
    host.print(text.of(...))
  end,
  protected = parts.errors.protected,
  dispatch = handles.dispatch,
  bottle_methods = handles.bottle_methods,
  plan_methods = handles.plan_methods,
  task_methods = tasks.task_methods,
}
