-- Text for people (`bb.text`, and what `print` and the log make of their arguments). Pure: writes nothing.

local host, _, _, parts = ...
local raise = parts.errors.raise

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

return { of = text_of, style = style, pad = pad, number = number, lay_out = lay_out }
