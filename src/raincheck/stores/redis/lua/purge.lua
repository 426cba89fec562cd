-- with: record
-- Remove tasks whose retention is over, and records that have expired; how many there were of each.
local late_at, now, limit, limit_of_records = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

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
local expired = redis.call('ZRANGEBYSCORE', root .. 'records-expiring', '-inf', now, 'LIMIT', 0, limit_of_records)
for _, member in ipairs(expired) do
  local kind, key = string.match(member, '^(%S+) (.*)$')
  redis.call('UNLINK', root .. 'record:' .. kind .. ':' .. key)
  delist_record(kind, key)
end
return {#members, #expired}
