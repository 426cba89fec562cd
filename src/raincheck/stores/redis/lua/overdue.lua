-- Tasks whose time to be settled has come: task_ref, s, i, r of each.
local now, limit = ARGV[1], tonumber(ARGV[2])

local found = {}
while limit > 0 do
  local skipped = #found / 4
  local members = redis.call('ZRANGEBYSCORE', root .. 'due', '-inf', now, 'LIMIT', skipped, limit)
  if #members == 0 then
    break
  end
  for _, member in ipairs(members) do
    local ref = ref_of(member)
    local task = redis.call('HMGET', root .. 'task:' .. ref, 's', 'i', 'r')
    if task[1] then
      local count = #found
      found[count + 1], found[count + 2], found[count + 3], found[count + 4] = ref, task[1], task[2], task[3]
      limit = limit - 1
    else
      forget(member)
    end
  end
end
return found
