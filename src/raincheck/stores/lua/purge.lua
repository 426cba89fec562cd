-- Remove tasks whose retention is over; how many there were.
local late_at, now, limit = ARGV[1], ARGV[2], ARGV[3]

local refusal = late(late_at)
if refusal then
  return refusal
end
local members = redis.call('ZRANGEBYSCORE', root .. 'expiring', '-inf', now, 'LIMIT', 0, limit)
for _, member in ipairs(members) do
  local ref = ref_of(member)
  local state = redis.call('HGET', root .. 'task:' .. ref, 's')
  if state then
    remove(ref, parse(state))
  else
    forget(member)
  end
end
return #members
