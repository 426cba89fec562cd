-- with: ranges
-- Pending tasks of these operations, the highest priority first, then the oldest: task_ref, s, i, r of each.
local limit = tonumber(ARGV[1])
-- ARGV[2] onwards: the operations.

local wanted, of, priorities, found = {}, {}, {}, {}
for index = 2, #ARGV do
  wanted[ARGV[index]] = true
end
for _, name in ipairs(redis.call('SMEMBERS', root .. 'lists:*')) do
  local operation, priority = string.match(name, '^pending:([^!]*)!?(.*)$')
  if operation and wanted[operation] then
    priority = tonumber(priority) or 0
    if not of[priority] then
      of[priority] = {}
      priorities[#priorities + 1] = priority
    end
    table.insert(of[priority], {key = root .. 'list:*:' .. name, rank = 0})
  end
end
table.sort(priorities)
for index = #priorities, 1, -1 do
  limit = merge(of[priorities[index]], 'ZRANGE', limit, function(ref)
    local task = redis.call('HMGET', root .. 'task:' .. ref, 's', 'i', 'r')
    if not task[1] then
      return false
    end
    local count = #found
    found[count + 1], found[count + 2], found[count + 3], found[count + 4] = ref, task[1], task[2], task[3]
    return true
  end)
  if limit == 0 then
    break
  end
end
return found
