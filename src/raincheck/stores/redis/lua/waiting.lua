-- Pending tasks of these operations, of each priority the oldest of the scopes that come behind a name, going round:
-- task_ref, s, i, r of each.
local limit, after, number = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
-- ARGV[4] onwards: so many scopes to leave out, then the operations.

local without, wanted, lines, found = {}, {}, {}, {}
for index = 4, 3 + number do
  without[ARGV[index]] = true
end
for index = 4 + number, #ARGV do
  wanted[ARGV[index]] = true
end
for _, name in ipairs(redis.call('SMEMBERS', root .. 'lists:*')) do
  local operation, priority = string.match(name, '^pending:([^!]*)!?(.*)$')
  if operation and wanted[operation] then
    lines[#lines + 1] = {name = string.sub(name, 9), priority = tonumber(priority) or 0}
  end
end
table.sort(lines, function(a, b) return a.priority > b.priority end)

-- Up to `limit` scopes, those behind `after` first.
local function scopes_of(turns)
  local scopes, met = {}, {}
  for _, start in ipairs({'(' .. after, '-'}) do
    for _, scope in ipairs(redis.call('ZRANGEBYLEX', turns, start, '+', 'LIMIT', 0, limit + number)) do
      if #scopes < limit and not met[scope] and not without[scope] then
        met[scope] = true
        scopes[#scopes + 1] = scope
      end
    end
  end
  return scopes
end

local last
for _, line in ipairs(lines) do
  if #found >= 4 * limit and line.priority ~= last then
    break
  end
  last = line.priority
  local turns = root .. 'turns:' .. line.name
  local scopes = scopes_of(turns)
  for _, scope in ipairs(scopes) do
    local list = root .. 'list:' .. scope .. ':pending:' .. line.name
    for _, ref in ipairs(redis.call('ZRANGE', list, 0, math.ceil(limit / #scopes) - 1)) do
      local task = redis.call('HMGET', root .. 'task:' .. ref, 's', 'i', 'r')
      if task[1] then
        local count = #found
        found[count + 1], found[count + 2], found[count + 3], found[count + 4] = ref, task[1], task[2], task[3]
      end
    end
  end
end
return found
