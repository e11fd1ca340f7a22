-- Handles: a bottle that was launched, and a plan of one (`bb.launch`, `bb.plan`), and the handlers of their events (`bb.on`).
-- Handles hold a name or a number and nothing else: the host looks up what it stands for, and what the recipe may do with it.

local host, _, co, parts = ...
local freeze, raise, check, misuse = parts.errors.freeze, parts.errors.raise, parts.errors.check, parts.errors.misuse

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
function bottle_methods.pause(self, options)
  return check(host.pause(own(self, "pause"), options))
end
function bottle_methods.thaw(self, options)
  return check(host.thaw(own(self, "thaw"), options))
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

return {
  own = own,
  launch = launch,
  plan = plan,
  on = on,
  dispatch = dispatch,
  bottle_methods = bottle_methods,
  plan_methods = plan_methods,
}
