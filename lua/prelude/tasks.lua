-- Several things at once: tasks (`bb.spawn`, `bb.all`, `bb.race`), and `bb.try`. The host runs them; here is how their errors
-- come back to whoever waits.

local host, _, _, parts = ...
local freeze, raise, check, misuse = parts.errors.freeze, parts.errors.raise, parts.errors.check, parts.errors.misuse
local protected = parts.errors.protected

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

return { spawn = spawn, all = all, race = race, try = try, task_methods = task_methods }
