-- The Lua half of the `bb` table. It gets the host's primitives, which answer `true, results...` or `false, error`, and
-- turns the second form into raised errors that know the recipe's own line. It must not add abilities of its own.
--
-- `dbg` and `co` are the debug and coroutine libraries; recipes do not see them.

local host, dbg, co = ...

-- The library's own refuses tables whose metatable is protected.
local freeze = host.freeze

-- Errors ------------------------------------------------------------------------------------------------------------

local Err = {
  __metatable = "bb.error",
  __tostring = function(e)
    local text = e.kind .. ": " .. e.message
    if e.hint then
      text = text .. " (" .. e.hint .. ")"
    end
    return text
  end,
}

-- Gets the frames of the recipe's own code, innermost first.
local function frames()
  local out = {}
  local level = 1
  while #out < 24 do
    local source, line, name = dbg.info(level, "sln")
    if not source then
      break
    end
    if line > 0 and source ~= "[C]" and source ~= "[bb]" and source ~= "__mlua_async_poll" then
      out[#out + 1] = { file = source, line = line, name = name ~= "" and name or nil }
    end
    level = level + 1
  end
  return out
end

local function raise(e)
  e.trace = e.trace or frames()
  error(setmetatable(e, Err), 0)
end

local function check(ok, ...)
  if ok then
    return ...
  end
  raise((...))
end

local function raising(primitive)
  return function(...)
    return check(primitive(...))
  end
end

local function misuse(message, hint)
  raise({ kind = "usage", message = message, hint = hint })
end

-- Turns whatever was raised into a structured error; runs where it was raised, so the frames are there.
local function normal(e)
  if type(e) == "table" and getmetatable(e) == "bb.error" then
    return e
  end
  local message, kind, hint
  if type(e) == "table" and type(e.message) == "string" then
    message, kind, hint = e.message, e.kind, e.hint
  else
    message = tostring(e)
  end
  message = string.gsub(message, "\nstack traceback:.*$", "")
  message = string.gsub(message, "^runtime error: ", "")
  local trace = frames()
  local top = trace[1]
  if top then
    local prefix = top.file .. ":" .. top.line .. ": "
    if string.sub(message, 1, #prefix) == prefix then
      message = string.sub(message, #prefix + 1)
    end
  end
  return setmetatable({
    kind = type(kind) == "string" and kind or "recipe",
    message = message,
    hint = type(hint) == "string" and hint or nil,
    trace = trace,
  }, Err)
end

-- Runs `f` and answers `true, results...` or `false, error`.
local function protected(f, ...)
  return xpcall(f, normal, ...)
end

-- Makes a table that cannot be changed and that knows what it does not have.
local function closed(t, what, call)
  local names = {}
  for name in pairs(t) do
    names[#names + 1] = name
  end
  setmetatable(t, {
    __index = function(_, name)
      raise(host.unknown(what, tostring(name), names))
    end,
    __call = call,
    __metatable = what,
  })
  return freeze(t)
end

-- Bottles -----------------------------------------------------------------------------------------------------------

local bottle_methods = {}
local bottle_names = { "slug", "label", "provider", "workspace" }
local handles = {}

-- Threads that run a handler of bb.on: a wait in there must not wait for the handlers.
local handling = setmetatable({}, { __mode = "k" })

local Bottle = {
  __metatable = "bottle",
  __tostring = function(self)
    return "bottle " .. rawget(self, "slug")
  end,
  __index = function(_, name)
    local method = bottle_methods[name]
    if method then
      return method
    end
    raise(host.unknown("a bottle", tostring(name), bottle_names))
  end,
}

local function own(self, method)
  if type(self) ~= "table" or getmetatable(self) ~= "bottle" then
    misuse("bottle." .. method .. " was called without its bottle", "write it with a colon: bottle:" .. method .. "(...)")
  end
  return self.slug
end

local function iterator(open)
  return function(...)
    local stream = check(open(...))
    return function()
      return check(host.next(stream))
    end
  end
end

local open_events = iterator(host.events)
local open_logs = iterator(host.logs)

function bottle_methods.wait(self, options)
  return check(host.wait(own(self, "wait"), options, handling[co.running()] == true))
end
function bottle_methods.attach(self, options)
  return check(host.attach(own(self, "attach"), options))
end
function bottle_methods.freeze(self, options)
  return check(host.freeze_bottle(own(self, "freeze"), options))
end
function bottle_methods.commit(self)
  return check(host.commit_bottle(own(self, "commit")))
end
function bottle_methods.exec(self, command)
  return check(host.exec(own(self, "exec"), command))
end
function bottle_methods.events(self)
  return open_events(own(self, "events"))
end
function bottle_methods.logs(self, options)
  return open_logs(own(self, "logs"), options)
end
function bottle_methods.usage(self)
  return check(host.meter_of(own(self, "usage")))
end
function bottle_methods.cut(self, options)
  return check(host.cut(own(self, "cut"), options))
end
function bottle_methods.kill(self, options)
  return check(host.kill(own(self, "kill"), options))
end
for name in pairs(bottle_methods) do
  bottle_names[#bottle_names + 1] = name
end

local function launch(options)
  local bottle = freeze(setmetatable(check(host.launch(options)), Bottle))
  handles[bottle.slug] = bottle
  return bottle
end

-- Plans -------------------------------------------------------------------------------------------------------------

local plan_methods = {}
local plan_names = { "label", "provider", "bottles", "questions", "warnings", "changes", "interactive" }
local Plan = {
  __metatable = "plan",
  __index = function(_, name)
    return plan_methods[name] or raise(host.unknown("a plan", tostring(name), plan_names))
  end,
}

local function planned(self, method)
  if type(self) ~= "table" or getmetatable(self) ~= "plan" then
    misuse("plan." .. method .. " was called without its plan", "write it with a colon: plan:" .. method .. "(...)")
  end
  return rawget(self, "id")
end

function plan_methods.preflight(self)
  return check(host.plan_preflight(planned(self, "preflight")))
end
function plan_methods.ready(self, told)
  return check(host.plan_ready(planned(self, "ready"), told == true))
end
function plan_methods.launch(self, options)
  local bottle = freeze(setmetatable(check(host.plan_launch(planned(self, "launch"), options)), Bottle))
  handles[bottle.slug] = bottle
  return bottle
end
for name in pairs(plan_methods) do
  plan_names[#plan_names + 1] = name
end

local function plan(options)
  return freeze(setmetatable(check(host.plan(options)), Plan))
end

-- Tasks -------------------------------------------------------------------------------------------------------------

local task_methods = {}
local Task = {
  __metatable = "task",
  __index = function(_, name)
    return task_methods[name] or raise(host.unknown("a task", tostring(name), { "wait", "cancel" }))
  end,
}

local function spawn(f, ...)
  if type(f) ~= "function" then
    misuse("bb.spawn takes a function, got " .. type(f))
  end
  return freeze(setmetatable({ id = check(host.spawn(protected, f, ...)) }, Task))
end

local function outcome(ok, ...)
  if ok then
    return ...
  end
  error((...), 0)
end

function task_methods.wait(self)
  return outcome(check(host.join(rawget(self, "id"))))
end
function task_methods.cancel(self)
  return check(host.cancel(rawget(self, "id")))
end

local function tasks_of(list, call)
  if type(list) ~= "table" then
    misuse(call .. " takes a list of tasks and functions, got " .. type(list))
  end
  local tasks, ids = {}, {}
  for i, item in ipairs(list) do
    if type(item) == "function" then
      tasks[i] = spawn(item)
    elseif type(item) == "table" and getmetatable(item) == "task" then
      tasks[i] = item
    else
      misuse(call .. " takes tasks and functions, item " .. i .. " is a " .. type(item))
    end
    ids[i] = rawget(tasks[i], "id")
  end
  return tasks, ids
end

local function cancel_all(tasks)
  for _, task in ipairs(tasks) do
    task:cancel()
  end
end

local function all(list)
  local tasks, ids = tasks_of(list, "bb.all")
  local failed = check(host.first(ids, true))
  if failed then
    cancel_all(tasks)
    tasks[failed]:wait()
  end
  local results = {}
  for i, task in ipairs(tasks) do
    results[i] = (task:wait())
  end
  return results
end

local function race(list)
  local tasks, ids = tasks_of(list, "bb.race")
  if #tasks == 0 then
    misuse("bb.race takes at least one task")
  end
  local winner = check(host.first(ids, false))
  cancel_all(tasks)
  return winner, tasks[winner]:wait()
end

-- Runs `f`; returns its results, or nil and the error.
local function try_results(ok, ...)
  if ok then
    return ...
  end
  return nil, (...)
end
local function try(f, ...)
  if type(f) ~= "function" then
    misuse("bb.try takes a function, got " .. type(f))
  end
  return try_results(protected(f, ...))
end

-- Events ------------------------------------------------------------------------------------------------------------

local handlers = {}

local function on(name, f)
  if type(f) ~= "function" then
    misuse("bb.on takes an event's name and a function, got " .. type(f))
  end
  check(host.on(name))
  handlers[#handlers + 1] = { name = name, f = f }
end

-- Called by the host for each event, one after the other.
local function dispatch(event)
  handling[co.running()] = true
  for _, handler in ipairs(handlers) do
    if handler.name == "*" or handler.name == event.type then
      handler.f(event, event.bottle and handles[event.bottle] or nil)
    end
  end
end

-- Text --------------------------------------------------------------------------------------------------------------

local function text_of(...)
  local parts = {}
  for i = 1, select("#", ...) do
    parts[i] = tostring((select(i, ...)))
  end
  return table.concat(parts, "\t")
end

local styles = { bold = 1, dim = 2, red = 31, green = 32, yellow = 33, blue = 34, magenta = 35, cyan = 36 }
local style_names = {}
for name in pairs(styles) do
  style_names[#style_names + 1] = name
end

local function style(name, s)
  local code = styles[name] or raise(host.unknown("bb.text.style", tostring(name), style_names))
  return "\27[" .. code .. "m" .. tostring(s) .. "\27[0m"
end

local function width(s)
  local plain = string.gsub(tostring(s), "\27%[[%d;]*m", "")
  return utf8.len(plain) or #plain
end

local function pad(s, columns, align)
  s = tostring(s)
  local gap = string.rep(" ", math.max(0, columns - width(s)))
  if align == "right" then
    return gap .. s
  end
  return s .. gap
end

-- 12345 -> "12,345"
local function number(n)
  local sign, digits, rest = string.match(tostring(n), "^(%-?)(%d+)(.*)$")
  if not digits then
    return tostring(n)
  end
  local grouped = string.gsub(string.reverse(digits), "(%d%d%d)", "%1,")
  return sign .. string.gsub(string.reverse(grouped), "^,", "") .. rest
end

-- Lays rows out in columns; columns of numbers are aligned to the right.
local function lay_out(rows, header)
  local widths, right = {}, {}
  local cells = {}
  for r, row in ipairs(rows) do
    cells[r] = {}
    for c, value in ipairs(row) do
      if right[c] == nil then
        right[c] = type(value) == "number"
      end
      local cell = type(value) == "number" and number(value) or tostring(value)
      cells[r][c] = cell
      widths[c] = math.max(widths[c] or 0, width(cell))
    end
  end
  for c, title in ipairs(header or {}) do
    widths[c] = math.max(widths[c] or 0, width(title))
  end
  local lines = {}
  local function line(row, dress)
    local parts = {}
    for c, cell in ipairs(row) do
      local last = c == #row and not right[c]
      parts[c] = last and cell or pad(cell, widths[c], right[c] and "right" or "left")
      if dress then
        parts[c] = style(dress, parts[c])
      end
    end
    lines[#lines + 1] = table.concat(parts, "  ")
  end
  if header then
    line(header, "dim")
  end
  for _, row in ipairs(cells) do
    line(row)
  end
  return table.concat(lines, "\n")
end

-- The log -----------------------------------------------------------------------------------------------------------

local function logger(level)
  return function(...)
    host.log(level, text_of(...))
  end
end

local log = closed({
  info = logger("info"),
  warn = logger("warn"),
  error = logger("error"),
}, "bb.log", function(_, ...)
  host.log("info", text_of(...))
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
  launch = launch,
  providers = raising(host.providers),
  meter = closed({
    of = function(bottle)
      return check(host.meter_of(own(bottle, "usage")))
    end,
    parse = raising(host.meter_parse),
  }, "bb.meter"),
  ledger = closed({ query = raising(host.ledger_query) }, "bb.ledger"),
  budget = closed({ set = raising(host.budget_set), get = raising(host.budget_get) }, "bb.budget"),
  spawn = spawn,
  all = all,
  race = race,
  sleep = raising(host.sleep),
  try = try,
  on = on,
  log = log,
  text = closed({ style = style, pad = pad, number = number, table = lay_out }, "bb.text"),
  manifest = closed({ agents = raising(host.manifest_agents), bottles = raising(host.manifest_bottles) }, "bb.manifest"),
  plan = plan,
  ui = closed({
    terminal = raising(host.ui_terminal),
    pick = raising(host.ui_pick),
    choose = raising(host.ui_choose),
    ask = raising(host.ui_ask),
    confirm = raising(host.ui_confirm),
    note = function(...)
      return check(host.ui_note(text_of(...)))
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
    host.print(text_of(...))
  end,
  protected = protected,
  dispatch = dispatch,
  bottle_methods = bottle_methods,
  plan_methods = plan_methods,
  task_methods = task_methods,
}
