-- with: ranges
-- Pending tasks of these operations, oldest first: task_ref, s, i, r of each.
local limit = tonumber(ARGV[1])
-- ARGV[2] onwards: the operations.

local ranges, found = {}, {}
for index = 2, #ARGV do
  ranges[#ranges + 1] = {key = root .. 'list:*:pending:' .. ARGV[index], rank = 0}
end
merge(ranges, 'ZRANGE', limit, function(ref)
  local task = redis.call('HMGET', root .. 'task:' .. ref, 's', 'i', 'r')
  if not task[1] then
    return false
  end
  local count = #found
  found[count + 1], found[count + 2], found[count + 3], found[count + 4] = ref, task[1], task[2], task[3]
  return true
end)
return found
