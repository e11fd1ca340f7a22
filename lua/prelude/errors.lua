-- How the `bb` table fails: primitives answer `true, results...` or `false, error`, and here the second form becomes a raised
-- error that knows the recipe's own line. Knows no primitive but those that errors and closed tables are made with.

local host, dbg = ...

-- The library's own refuses tables whose metatable is protected.
local freeze = host.freeze

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

return {
  freeze = freeze,
  raise = raise,
  check = check,
  raising = raising,
  misuse = misuse,
  protected = protected,
  closed = closed,
}
