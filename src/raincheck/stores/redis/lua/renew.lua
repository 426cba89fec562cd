-- Extend a worker's leases; the task_refs of those that it does not hold.
local late_at, worker, lease, length = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
-- length: of the lease, counted from the server's now; "": it ends as `lease` says. ARGV[5] onwards: a task_ref, its fence, and so on.

local refusal = late(late_at)
if refusal then
  return refusal
end
local TERMINAL = {completed = true, failed = true, cancelled = true}
local lost = {'lost'}
if length ~= '' then
  lease = lease_end(length)
end
for index = 5, #ARGV, 2 do
  local ref = ARGV[index]
  local task = root .. 'task:' .. ref
  local there = redis.call('HGET', task, 's')
  local old = there and parse(there)
  if not old or TERMINAL[old.status] or old.worker ~= worker or old.fence ~= ARGV[index + 1] then
    lost[#lost + 1] = ref
  elseif old.lease ~= lease then
    old.lease = lease
    redis.call('HSET', task, 's', text_of(old))
    local deadline = string.match(old.fixed, '^%S+')
    local due = tonumber(deadline) < tonumber(lease) and deadline or lease
    redis.call('ZADD', root .. 'due', due, old.scope .. ' ' .. old.operation .. ' ' .. ref)
  end
end
return lost
