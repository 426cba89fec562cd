-- with: ranges
-- A page of an owner's tasks, newest first: task_ref, s, i, r of each, without arguments, questions and outcome.
local owner, operation, created, after, limit = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
-- ARGV[6] onwards: the statuses. operation "": any; created "": from the newest on.

local wanted = {}
for index = 6, #ARGV do
  wanted[ARGV[index]] = true
end

-- The place of what comes after the cursor, whether the task that it names is still there or not.
local function rank(key)
  if created == '' then
    return 0
  end
  local low = redis.call('ZCOUNT', key, '(' .. created, '+inf')
  local high = low + redis.call('ZCOUNT', key, created, created)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if less(redis.call('ZREVRANGE', key, middle, middle)[1], after) then
      high = middle
    else
      low = middle + 1
    end
  end
  return low
end

local ranges, found = {}, {}
for _, name in ipairs(redis.call('SMEMBERS', root .. 'lists:' .. owner)) do
  local status, of = string.match(name, '^([^:]+):([^!]*)')
  if wanted[status] and (operation == '' or of == operation) then
    local key = root .. 'list:' .. owner .. ':' .. name
    ranges[#ranges + 1] = {key = key, rank = rank(key)}
  end
end
merge(ranges, 'ZREVRANGE', limit, function(ref)
  local task = redis.call('HMGET', root .. 'task:' .. ref, 's', 'i', 'r')
  if not task[1] then
    return false
  end
  local count = #found
  found[count + 1], found[count + 2] = ref, task[1]
  found[count + 3] = string.match(task[2], '^[^\n]*')
  found[count + 4] = string.match(task[3], '^[^\n]*\n[^\n]*')
  return true
end)
return found
